"""Is all well? Each worker says on Redis that it lives; `check` asks Redis, the database and the workers."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from arq.connections import ArqRedis
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from db.engine import open_database
from db.errors import LedgerqError
from db.schema import require_current
from worker.config import Config, runs_here
from worker.connection import address_of, connect, require_redis
from worker.keys import WORKERS

ALIVE = "ledgerq_alive"  # in arq's ctx: when our engine last looked at its queue, time.monotonic
BEAT = 5.0  # seconds between two signs of life
SILENCE = 3 * BEAT  # a worker not seen for so long is taken for dead
_FORGOTTEN = 3600.0

log = structlog.stdlib.get_logger("ledgerq.worker")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str


async def check(config: Config) -> list[Check]:
    """Look at Redis, the database, its schema, and which workers live."""
    return [*await _check_redis(config), *await _check_database(config)]


def looks_alive(ctx: Mapping[Any, Any], still: float) -> bool:
    """False if our engine has not looked at its queue for a while, not counting that its loop stood still."""
    looked = ctx.get(ALIVE)
    return looked is None or time.monotonic() - looked - still < 2 * SILENCE


async def keep_beating(redis: ArqRedis, worker: str, alive: Callable[[], bool]) -> None:
    """Show that this worker lives, for as long as it does, until cancelled; then take its name off."""
    try:
        while True:
            try:
                if alive():
                    await beat(redis, worker)
            except (RedisError, OSError) as error:
                log.warning("worker.heartbeat_missed", error=str(error))
            await asyncio.sleep(BEAT)
    finally:
        try:
            await redis.zrem(WORKERS, worker)
        except (RedisError, OSError) as error:
            log.warning("worker.heartbeat_missed", error=str(error))


async def beat(redis: ArqRedis, worker: str) -> None:
    """One sign of life, by Redis' clock."""
    now = await _now(redis)
    async with redis.pipeline(transaction=False) as pipe:
        pipe.zadd(WORKERS, {worker: now})
        pipe.zremrangebyscore(WORKERS, "-inf", now - _FORGOTTEN)
        await pipe.execute()


async def living_workers(redis: ArqRedis) -> list[str]:
    """The workers that showed a sign of life in the last `SILENCE` seconds."""
    since = await _now(redis) - SILENCE
    return [name.decode() for name in await redis.zrangebyscore(WORKERS, since, "+inf")]


async def _now(redis: ArqRedis) -> float:
    seconds, microseconds = await redis.time()
    return float(seconds) + float(microseconds) / 1e6


async def _check_redis(config: Config) -> list[Check]:
    redis = connect(config.worker)
    try:
        await require_redis(redis)
        queued = await redis.zcard(config.worker.queue)
        workers = await living_workers(redis)
    except (LedgerqError, RedisError, OSError) as error:
        unknown = Check("workers", ok=False, detail="unknown: Redis does not answer")
        return [Check("redis", ok=False, detail=str(error)), unknown]
    finally:
        await redis.aclose(close_connection_pool=True)
    return [
        Check("redis", ok=True, detail=f"{address_of(redis)}, {queued} queued"),
        _workers_check(workers),
    ]


def _workers_check(workers: list[str]) -> Check:
    """All well if one lives on this machine: that is what a container asks about itself."""
    here = any(runs_here(worker) for worker in workers)
    seen = ", ".join(workers) if workers else f"none seen in the last {SILENCE:g} s"
    return Check("workers", ok=here, detail=seen if here or not workers else f"elsewhere: {seen}")


async def _check_database(config: Config) -> list[Check]:
    async with open_database(config.database) as database:
        try:
            await database.ping()
        except LedgerqError as error:
            return [Check("database", ok=False, detail=str(error))]
        answered = Check("database", ok=True, detail=config.database.address)
        try:
            await require_current(database)
        except (LedgerqError, SQLAlchemyError) as error:
            return [answered, Check("schema", ok=False, detail=str(error))]
    return [answered, Check("schema", ok=True, detail="current")]
