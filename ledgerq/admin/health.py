"""Health checks of Redis, the database and the workers. Each worker writes a sign of life to Redis."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import structlog
from arq.connections import ArqRedis
from redis.exceptions import NoPermissionError, RedisError
from sqlalchemy.exc import SQLAlchemyError

from ledgerq.admin.queues import NO_QUEUES, Queues, known_queues
from ledgerq.broker.connection import address_of, connect, require_redis
from ledgerq.broker.presence import SILENCE, living_workers, waits
from ledgerq.broker.requirements import Missing, missing
from ledgerq.config import Config
from ledgerq.database.engine import NO_TABLES, Database, Tables, open_database
from ledgerq.errors import LedgerqError
from ledgerq.runtime.process_name import runs_here
from ledgerq.store.grants import lasting_locks, missing_grants, read_only
from ledgerq.store.schema import require_current
from ledgerq.text import first_line

LIMIT = 2.5  # seconds for a server to answer all that `check` asks

log = structlog.stdlib.get_logger("ledgerq.worker")


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check. `warn` marks a warning: `ok` stays True, and `detail` should be read."""

    name: str
    ok: bool
    detail: str
    warn: bool = False


async def check(
    config: Config,
    tables: Tables = NO_TABLES,
    *,
    seconds: float = LIMIT,
    kinds: Queues = NO_QUEUES,
) -> list[Check]:
    """Check Redis and the living workers, and at the same time the database and its schema.

    Each of the two may take `seconds` at most. `kinds` are the queues of the application's kinds.
    """
    found = {"redis": dict[str, Check](), "database": dict[str, Check]()}
    looks = {
        "redis": asyncio.create_task(_gather(_check_redis(config, kinds), found["redis"])),
        "database": asyncio.create_task(
            _gather(_check_database(config, tables), found["database"])
        ),
    }
    await asyncio.wait(looks.values(), timeout=seconds)
    for name, look in looks.items():
        if not look.done():
            found[name][name] = Check(name, ok=False, detail=f"no answer within {seconds:g} s")
            look.cancel()
        elif (error := look.exception()) is not None:
            found[name][name] = Check(name, ok=False, detail=first_line(error))
    if "workers" not in found["redis"]:
        unknown = Check("workers", ok=False, detail="unknown: Redis does not tell")
        found["redis"]["workers"] = unknown
    await asyncio.wait(looks.values(), timeout=0.3)
    return [*found["redis"].values(), *found["database"].values()]


async def _gather(checks: AsyncIterator[Check], found: dict[str, Check]) -> None:
    async for each in checks:
        found[each.name] = each


async def _check_redis(config: Config, kinds: Queues) -> AsyncIterator[Check]:
    redis, failed = connect(config.worker), False
    served, known = config.worker.served, known_queues(config.worker, kinds)
    try:
        await require_redis(redis, for_worker=False)
        lacks = await missing(redis, served)
        graver = [each for each in lacks if not each.slows]
        if graver:
            text = f"REDIS_URL: Redis at {address_of(redis)}: {_said(graver)}"
            yield Check("redis", ok=False, detail=text)
            failed = True
        else:
            queued = sum([await redis.zcard(queue) for queue in served])
            yield Check("redis", ok=True, detail=f"{address_of(redis)}, {queued} queued")
        if slows := [each for each in lacks if each.slows]:
            text = f"workers ask for jobs every now and then: {_said(slows)}"
            yield Check("wake", ok=True, warn=True, detail=text)
        workers = [name for queue in served for name in await living_workers(redis, queue)]
        yield _workers_check(list(dict.fromkeys(workers)))
        async for note in _notes_on_redis(redis, known):
            yield note
    except (LedgerqError, RedisError, OSError) as error:
        if not (failed and isinstance(error, NoPermissionError)):  # already reported
            yield Check("redis", ok=False, detail=first_line(error))
    finally:
        await redis.aclose(close_connection_pool=True)


def _said(lacks: Sequence[Missing]) -> str:
    return "; ".join(f"{each.problem}; {each.cure}" for each in lacks[:3])


async def _notes_on_redis(redis: ArqRedis, queues: Sequence[str]) -> AsyncIterator[Check]:
    """Warnings: facts that don't keep the worker from running, but that an operator should know."""
    try:
        policy = (await redis.info("memory")).get("maxmemory_policy", "noeviction")
    except RedisError:  # forbidden
        policy = "noeviction"
    if policy != "noeviction":
        text = f"maxmemory-policy is {policy}: Redis may throw jobs away; set it to noeviction"
        yield Check("memory", ok=True, warn=True, detail=text)
    alone = [queue for queue in queues[1:] if await _is_left_alone(redis, queue)]
    if alone:
        text = f"{', '.join(alone)}: jobs wait, and no worker serves it; start one with --queue"
        yield Check("queues", ok=True, warn=True, detail=text)
    waiting = [each for queue in queues for each in await waits(redis, queue)]
    if waiting:
        text = "; ".join(
            f"{each.reason}: {each.text} ({each.seconds:.0f} s ago)" for each in waiting
        )
        yield Check("waits", ok=True, warn=True, detail=f"jobs wait for {text}")


async def _is_left_alone(redis: ArqRedis, queue: str) -> bool:
    return bool(await redis.zcard(queue)) and not await living_workers(redis, queue)


def _workers_check(workers: list[str]) -> Check:
    """Ok if a worker lives on this machine, since a container's health check asks about the container itself."""
    here = any(runs_here(worker) for worker in workers)
    seen = ", ".join(workers) if workers else f"none seen in the last {SILENCE:g} s"
    return Check("workers", ok=here, detail=seen if here or not workers else f"elsewhere: {seen}")


async def _check_database(config: Config, tables: Tables) -> AsyncIterator[Check]:
    async with open_database(config.database, tables) as database:
        try:
            await database.ping()
            async for each in _look_at_database(database):
                yield each
        except (LedgerqError, SQLAlchemyError, OSError, TimeoutError) as error:
            yield Check("database", ok=False, detail=first_line(error))


async def _look_at_database(database: Database) -> AsyncIterator[Check]:
    address = database.config.address
    if await read_only(database):
        text = (
            f"DATABASE_URL: {address} is read-only, a standby for instance; point it to the primary"
        )
        yield Check("database", ok=False, detail=text)
    else:
        yield Check("database", ok=True, detail=address)
    try:
        await require_current(database)
    except (LedgerqError, SQLAlchemyError) as error:
        yield Check("schema", ok=False, detail=first_line(error))
        return
    yield Check("schema", ok=True, detail="current")
    if lacks := await missing_grants(database):
        said = "; ".join(f"{each.problem}: {each.cure}" for each in lacks)
        yield Check("grants", ok=False, detail=f"DATABASE_URL: {said}")
    if locks := await lasting_locks(database):
        yield Check("locks", ok=True, warn=True, detail="; ".join(map(str, locks)))
