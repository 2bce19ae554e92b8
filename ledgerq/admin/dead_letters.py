"""Replay and discard dead letters: those of named jobs, all or none; or all that match a filter, page by page."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from arq.connections import ArqRedis
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncSession

from ledgerq.broker.queue import remove_from_queue
from ledgerq.database.engine import Sessions
from ledgerq.database.transaction import in_transaction
from ledgerq.errors import NotBuried, NotReplayable
from ledgerq.execution import interventions, replays
from ledgerq.execution.replays import Replayed
from ledgerq.store import dead_letters
from ledgerq.store.dead_letters import DeadLetterFilter
from ledgerq.wire.queue_name import queue_key

MAX_OBSTACLES = 20  # the most that BulkResult lists; it counts all
_PATIENCE = 2.0  # seconds for Redis; PostgreSQL ends a transaction that is idle for longer, and others wait for the letters
_CURE = "so the old fields may run: try again after a lease (LEDGERQ_LEASE), or give another id (--new-id)"


class _Left(Enum):
    """What Redis keeps of dead jobs after `_forget`."""

    NOTHING = ""
    CLAIMED = "a worker had it last, and did not end its claim"
    UNKNOWN = "Redis does not answer, and may still have it"


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """The jobs that are staged again. `redis_reached` is False if Redis did not answer."""

    jobs: list[Replayed]
    redis_reached: bool


@dataclass(slots=True)
class BulkResult:
    """How many letters were replayed or discarded (`taken`), how many were left as they are, and why."""

    taken: int = 0
    left: int = 0
    obstacles: list[NotReplayable] = field(default_factory=list)
    redis_reached: bool = True


async def replay(
    redis: ArqRedis,
    sessions: Sessions,
    queue: str,
    job_ids: Collection[str],
    *,
    actor: str,
    reason: str,
    payload: Mapping[str, Any] | None = None,
    kind: str | None = None,
    new_job_id: str | None = None,
    from_step: str | None = None,
) -> ReplayResult:
    """Stage these dead jobs again and delete their dead letters, in one transaction: all, or none.

    What Redis still keeps of the jobs is removed first, unless `new_job_id` is given. `queue` is the default queue's key.
    `actor` and `reason` go to the audit log. `payload`, `kind` and `new_job_id` replace what the dead letter has. With
    `from_step`, the job does that step and all later ones again. Only `kind` may be given for several jobs.

    Raises:
        NotBuried: a job has no dead letter.
        NotReplayable, InvalidRequest, Undecodable: a dead letter or an argument does not allow it; the text says why. A job
            gets no other payload or kind while Redis may still have it with the old ones: those would run.
    """

    async def once(session: AsyncSession) -> ReplayResult:
        queues = await dead_letters.lock(session, job_ids)
        _require(job_ids, set(queues))
        left = _Left.NOTHING if new_job_id is not None else await _forget(redis, queue, queues)
        if left is not _Left.NOTHING and (payload is not None or kind is not None):
            raise NotReplayable(
                min(queues), "kind" if payload is None else "payload", f"{left.value}; {_CURE}"
            )
        replayed = await replays.replay(
            session, job_ids, actor=actor, reason=reason,
            payload=payload, kind=kind, new_job_id=new_job_id, from_step=from_step,
        )  # fmt: skip
        return ReplayResult(replayed, left is not _Left.UNKNOWN)

    return await in_transaction(sessions, once)


async def replay_all(
    redis: ArqRedis,
    sessions: Sessions,
    queue: str,
    which: DeadLetterFilter,
    *,
    actor: str,
    reason: str,
) -> BulkResult:
    """Replay all letters that match the filter, each page in a transaction. Letters that can't be replayed stay."""
    result = BulkResult()
    async for page in dead_letters.pages(sessions, which):
        obstacles = [each for each in map(replays.obstacle, page) if each]
        in_the_way = {each.job_id for each in obstacles}
        ids = [each.job_id for each in page if each.job_id not in in_the_way]

        async def once(session: AsyncSession, ids: Collection[str] = ids) -> tuple[int, _Left]:
            queues = await dead_letters.lock(session, ids)
            known = result.redis_reached  # else each page would wait for it
            left = await _forget(redis, queue, queues) if known else _Left.UNKNOWN
            return len(await replays.replay(session, ids, actor=actor, reason=reason)), left

        taken, left_on_redis = await in_transaction(sessions, once)
        result.taken += taken
        result.redis_reached = result.redis_reached and left_on_redis is not _Left.UNKNOWN
        result.left += len(obstacles)
        result.obstacles += obstacles[: MAX_OBSTACLES - len(result.obstacles)]
    return result


async def discard(
    sessions: Sessions, job_ids: Collection[str], *, actor: str, reason: str
) -> list[str]:
    """Discard the dead letters of these jobs in one transaction, with an audit entry each; returns the jobs' ids, each once.

    Raises:
        NotBuried: a job has no letter; none is discarded.
    """

    async def once(session: AsyncSession) -> list[str]:
        discarded = await interventions.discard(session, job_ids, actor=actor, reason=reason)
        _require(job_ids, set(discarded))
        return discarded

    return await in_transaction(sessions, once)


async def discard_all(
    sessions: Sessions, which: DeadLetterFilter, *, actor: str, reason: str
) -> BulkResult:
    """Discard all dead letters that match the filter, page by page, each page in its own transaction."""
    result = BulkResult()
    async for page in dead_letters.pages(sessions, which):
        ids = [letter.job_id for letter in page]

        async def once(session: AsyncSession, ids: Collection[str] = ids) -> int:
            return len(await interventions.discard(session, ids, actor=actor, reason=reason))

        result.taken += await in_transaction(sessions, once)
    return result


def _require(job_ids: Collection[str], there: set[str]) -> None:
    missing = sorted(set(job_ids) - there)
    if missing:
        raise NotBuried(missing)


async def _forget(redis: ArqRedis, default: str, queues: Mapping[str, str | None]) -> _Left:
    """Remove what Redis may still keep of dead jobs: an old payload, a count of crashes. What a worker has claimed stays.

    Mostly Redis keeps nothing: the worker that buried a job has acknowledged it. So a failure is not an error. The letters
    are locked: else somebody else could replay them meanwhile, and this would take the new jobs off the queue.
    """
    by_queue: dict[str, dict[str, bytes]] = {}
    for job_id, name in queues.items():
        by_queue.setdefault(queue_key(name, default), {})[job_id] = b""
    removed = 0
    try:
        async with asyncio.timeout(_PATIENCE):
            for queue, job_ids in by_queue.items():
                removed += await remove_from_queue(redis, queue, job_ids)
    except (RedisError, OSError, TimeoutError):
        return _Left.UNKNOWN
    return _Left.NOTHING if removed == len(queues) else _Left.CLAIMED
