"""Takes jobs off the queue that have ended in the database, or are to begin anew from there."""

from collections.abc import Mapping

from arq.connections import ArqRedis

from ledgerq.broker.keys import cancel_key, running_key
from ledgerq.broker.scripts import script


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
