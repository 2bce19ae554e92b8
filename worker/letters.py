"""Replay and discard dead letters: those that are named, all or none of them, or page by page all that fit."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from arq.connections import ArqRedis
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncSession

from db import dead_letters
from db.dead_letters import Which
from db.engine import Sessions
from db.transaction import in_transaction
from jobs import letters
from jobs.errors import NotBuried, NotReplayable
from jobs.letters import Replayed
from worker.retract import retract

MOST_OBSTACLES = 20  # so many are told of, all are counted


@dataclass(frozen=True, slots=True)
class Mended:
    """The jobs that will run once more. `told` is False if Redis could not be reached."""

    jobs: list[Replayed]
    told: bool


@dataclass(slots=True)
class Swept:
    """What became of all letters that fit: how many were taken, how many were left, and why."""

    taken: int = 0
    left: int = 0
    obstacles: list[NotReplayable] = field(default_factory=list)
    told: bool = True


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
) -> Mended:
    """Replay these, in one transaction; arguments and errors are those of `jobs.letters.replay`.

    Raises:
        NotBuried: one has no letter; none is replayed.
    """

    async def once(session: AsyncSession) -> list[Replayed]:
        replayed = await letters.replay(
            session, job_ids, actor=actor, reason=reason,
            payload=payload, kind=kind, new_job_id=new_job_id,
        )  # fmt: skip
        _require(job_ids, {each.letter_of for each in replayed})
        return replayed

    async with sessions() as session:
        _require(job_ids, await dead_letters.buried(session, job_ids))
    told = new_job_id is not None or await _forget(redis, queue, job_ids)
    return Mended(await in_transaction(sessions, once), told)


async def replay_all(
    redis: ArqRedis, sessions: Sessions, queue: str, which: Which, *, actor: str, reason: str
) -> Swept:
    """Replay all such letters, a page to a transaction; those that can't be as they are stay."""
    swept = Swept()
    async for page in letters.pages(sessions, which):
        obstacles = [each for each in map(letters.obstacle, page) if each]
        in_the_way = {each.job_id for each in obstacles}
        ids = [letter.job_id for letter in page if letter.job_id not in in_the_way]
        swept.told = swept.told and await _forget(redis, queue, ids)

        async def once(session: AsyncSession, ids: Collection[str] = ids) -> int:
            return len(await letters.replay(session, ids, actor=actor, reason=reason))

        swept.taken += await in_transaction(sessions, once)
        swept.left += len(obstacles)
        swept.obstacles += obstacles[: MOST_OBSTACLES - len(swept.obstacles)]
    return swept


async def discard(
    sessions: Sessions, job_ids: Collection[str], *, actor: str, reason: str
) -> list[str]:
    """Discard these, in one transaction.

    Raises:
        NotBuried: one has no letter; none is discarded.
    """

    async def once(session: AsyncSession) -> list[str]:
        discarded = await letters.discard(session, job_ids, actor=actor, reason=reason)
        _require(job_ids, set(discarded))
        return discarded

    return await in_transaction(sessions, once)


async def discard_all(sessions: Sessions, which: Which, *, actor: str, reason: str) -> Swept:
    """Discard all such letters, a page to a transaction."""
    swept = Swept()
    async for page in letters.pages(sessions, which):
        ids = [letter.job_id for letter in page]

        async def once(session: AsyncSession, ids: Collection[str] = ids) -> int:
            return len(await letters.discard(session, ids, actor=actor, reason=reason))

        swept.taken += await in_transaction(sessions, once)
    return swept


def _require(job_ids: Collection[str], there: set[str]) -> None:
    missing = sorted(set(job_ids) - there)
    if missing:
        raise NotBuried(missing)


async def _forget(redis: ArqRedis, queue: str, job_ids: Collection[str]) -> bool:
    """What Redis may still have of the dead jobs, their old payload and count of crashes, must not come first.

    It has nothing if the worker that buried them lived on to say so: it need not answer.
    """
    try:
        if job_ids:
            await retract(redis, queue, dict.fromkeys(job_ids, b""))
    except (RedisError, OSError, TimeoutError):
        return False
    return True
