"""Puts jobs on the queue, and takes those off that have ended in the database or are to begin anew from there."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from arq.connections import ArqRedis

from ledgerq.broker.keys import cancel_key, running_key
from ledgerq.broker.scripts import script


class Entry(NamedTuple):
    """A job as `enqueue.lua` reads it. Times are milliseconds; no `unique_key` is an empty one, a key on Redis."""

    job_id: str
    body: bytes
    delay: int = 0
    unique_key: str = ""
    window: int = 0


class Place(NamedTuple):
    """What became of an entry.

    Args:
        is_new: the entry was added.
        job_id: the entry's own, or the id of the job that has its unique key already.
        content: the body or the result of the job that was there before.
        holder: None, or the other queue that has this id; an empty text if it is not known which.
    """

    is_new: bool
    job_id: str
    content: bytes = b""
    holder: str | None = None


async def enqueue(
    redis: ArqRedis, queue: str, entries: Sequence[Entry], *, again: bool = False
) -> list[Place]:
    """Put jobs on the queue, in one round trip; an id that is there stays as it is.

    Args:
        redis: where the queue is.
        queue: its key.
        entries: the jobs.
        again: they may have ended, and their results be kept: they go on the queue all the same.
    """
    arguments: list[bytes | str | int] = [int(again)]
    for entry in entries:
        arguments += entry
    answers = await script(redis, "enqueue")(keys=[queue], args=arguments)
    return [_place(entry, answer) for entry, answer in zip(entries, answers, strict=True)]


def _place(entry: Entry, answer: int | Sequence[bytes]) -> Place:
    if isinstance(answer, int):
        return Place(True, entry.job_id)
    there, content, *holder = answer
    named = holder[0].decode(errors="replace") if holder else None
    return Place(False, there.decode(errors="replace"), content, named)


async def remove_from_queue(
    redis: ArqRedis,
    queue: str,
    results: Mapping[str, bytes],
    *,
    keep: int = 0,
    unique_key: str = "",
) -> int:
    """Forget these jobs on Redis, except those that a worker has; answers with how many went.

    Args:
        redis: where the queue is.
        queue: its key.
        results: for each job what to answer to who waits for it, or nothing.
        keep: for how many seconds.
        unique_key: on Redis; it is free from now on if it is one of theirs.
    """
    arguments: list[bytes | str | int] = [keep * 1000]
    for job_id, result in results.items():
        arguments += [job_id, result, unique_key]
    take_off = script(redis, "remove")
    return sum(await take_off(keys=[queue, running_key(queue), cancel_key(queue)], args=arguments))
