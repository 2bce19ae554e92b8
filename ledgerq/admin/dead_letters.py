"""Replay and discard dead letters: those that are named, all or none of them, or page by page all that fit."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from arq.connections import ArqRedis
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncSession

from ledgerq.broker.queue import remove_from_queue
from ledgerq.database.engine import Sessions
from ledgerq.database.transaction import in_transaction
from ledgerq.errors import NotBuried, NotReplayable
from ledgerq.execution import interventions
from ledgerq.execution.interventions import Replayed
from ledgerq.store import dead_letters
from ledgerq.store.dead_letters import DeadLetterFilter
from ledgerq.wire.queue_name import queue_key

MAX_OBSTACLES = 20  # so many are told of, all are counted


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """The jobs that will run once more. `redis_reached` is False if Redis could not be reached."""

    jobs: list[Replayed]
    redis_reached: bool


@dataclass(slots=True)
class BulkResult:
    """What became of all letters that fit: how many were taken, how many were left, and why."""

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
) -> ReplayResult:
    """Replay these, in one transaction; arguments and errors are those of `ledgerq.execution.interventions.replay`.

    Raises:
        NotBuried: one has no letter; none is replayed.
    """

    async def once(session: AsyncSession) -> list[Replayed]:
        replayed = await interventions.replay(
            session, job_ids, actor=actor, reason=reason,
            payload=payload, kind=kind, new_job_id=new_job_id,
        )  # fmt: skip
        _require(job_ids, {each.letter_of for each in replayed})
        return replayed

    async with sessions() as session:
        queues = await dead_letters.buried(session, job_ids)
    _require(job_ids, set(queues))
    redis_reached = new_job_id is not None or await _forget(redis, queue, queues)
    return ReplayResult(await in_transaction(sessions, once), redis_reached)


async def replay_all(
    redis: ArqRedis,
    sessions: Sessions,
    queue: str,
    which: DeadLetterFilter,
    *,
    actor: str,
    reason: str,
) -> BulkResult:
    """Replay all such letters, a page to a transaction; those that can't be as they are stay."""
    result = BulkResult()
    async for page in interventions.pages(sessions, which):
        obstacles = [each for each in map(interventions.obstacle, page) if each]
        in_the_way = {each.job_id for each in obstacles}
        ids = {each.job_id: each.queue for each in page if each.job_id not in in_the_way}
        result.redis_reached = result.redis_reached and await _forget(redis, queue, ids)

        async def once(session: AsyncSession, ids: Collection[str] = ids) -> int:
            return len(await interventions.replay(session, ids, actor=actor, reason=reason))

        result.taken += await in_transaction(sessions, once)
        result.left += len(obstacles)
        result.obstacles += obstacles[: MAX_OBSTACLES - len(result.obstacles)]
    return result


async def discard(
    sessions: Sessions, job_ids: Collection[str], *, actor: str, reason: str
) -> list[str]:
    """Discard these, in one transaction.

    Raises:
        NotBuried: one has no letter; none is discarded.
    """

    async def once(session: AsyncSession) -> list[str]:
        discarded = await interventions.discard(session, job_ids, actor=actor, reason=reason)
        _require(job_ids, set(discarded))
        return discarded

    return await in_transaction(sessions, once)


async def discard_all(
    sessions: Sessions, which: DeadLetterFilter, *, actor: str, reason: str
) -> BulkResult:
    """Discard all such letters, a page to a transaction."""
    result = BulkResult()
    async for page in interventions.pages(sessions, which):
        ids = [letter.job_id for letter in page]

        async def once(session: AsyncSession, ids: Collection[str] = ids) -> int:
            return len(await interventions.discard(session, ids, actor=actor, reason=reason))

        result.taken += await in_transaction(sessions, once)
    return result


def _require(job_ids: Collection[str], there: set[str]) -> None:
    missing = sorted(set(job_ids) - there)
    if missing:
        raise NotBuried(missing)


async def _forget(redis: ArqRedis, default: str, queues: Mapping[str, str | None]) -> bool:
    """What Redis may still have of the dead jobs, their old payload and count of crashes, must not come first.

    It has nothing if the worker that buried them lived on to say so: it need not answer.
    """
    by_queue: dict[str, dict[str, bytes]] = {}
    for job_id, name in queues.items():
        by_queue.setdefault(queue_key(name, default), {})[job_id] = b""
    try:
        for queue, job_ids in by_queue.items():
            await remove_from_queue(redis, queue, job_ids)
    except (RedisError, OSError, TimeoutError):
        return False
    return True
