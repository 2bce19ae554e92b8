"""Puts jobs on the queue, and removes jobs that have ended in the database or are staged again there."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from arq.connections import ArqRedis

from ledgerq.broker.keys import cancel_key, running_key
from ledgerq.broker.scripts import script


class Entry(NamedTuple):
    """A job to put on a queue, due after `delay` ms. `unique_key` is a key on Redis, kept for `window` ms; '' for none."""

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
        content: the result of the job that was there before, or its body if it has not ended; empty if unknown, or if there
            was none.
        holder: the other queue that has a job of the entry's id; '' if that queue is unknown; None if none has.
    """

    is_new: bool
    job_id: str
    content: bytes = b""
    holder: str | None = None


async def enqueue(
    redis: ArqRedis, queue: str, entries: Sequence[Entry], *, again: bool = False
) -> list[Place]:
    """Put jobs on the queue, in one round trip. A job whose id is already in use is not changed.

    Args:
        redis: the client.
        queue: the queue's key.
        entries: the jobs.
        again: also put a job on the queue if Redis keeps an earlier result of the job.
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
    """Remove these jobs from Redis, except those that a worker has claimed; returns how many were removed.

    Requests to cancel the jobs, and their unique key, are deleted even for a job that a worker has claimed.

    Args:
        redis: the client.
        queue: the queue's key.
        results: job id → the result to store for a client that waits for the job, or b"" for none.
        keep: seconds for which these results are kept; 0, the default, stores no result.
        unique_key: a unique key on Redis, which is deleted if one of these jobs has it; '' for none.
    """
    arguments: list[bytes | str | int] = [keep * 1000]
    for job_id, result in results.items():
        arguments += [job_id, result, unique_key]
    take_off = script(redis, "remove")
    return sum(await take_off(keys=[queue, running_key(queue), cancel_key(queue)], args=arguments))
