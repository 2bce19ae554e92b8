"""One segment each: a fresh database, an empty Redis, one contender, one number.

Rows are counted by SQL, from outside: nobody is asked how fast he was.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.processes import Contender, Cost, Workers, ask, prepare, workers
from bench.servers import Servers

LOOK = 0.05  # seconds between two counts …
_LIGHT = 20  # … or so many times what a count takes: counting a million rows must not be what is measured
_REWRITE = 300  # seconds for Redis to rewrite its append-only file
PATIENCE = 40  # seconds without progress after which a contender is given up
_COUNT = {table: f"SELECT count(*) FROM {table}" for table in ("task", "audit_log")}  # noqa: S608 - ours
_WAL = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"
_WARM = 0.1  # of the jobs: they bring the workers up and are not counted

Counter = Callable[[], Awaitable[int]]


class Stuck(Exception):
    """A contender makes no progress."""


@dataclass(frozen=True, slots=True)
class Drained:
    """How a queue was worked off."""

    jobs: int
    rate: float  # jobs a second, from the first tenth to the last job
    redis_per_job: float
    round_trips_per_job: float
    wal_per_job: float  # bytes
    cost: Cost
    fill_rate: float  # jobs a second put on the queue before that


async def drain(
    servers: Servers,
    contender: Contender,
    kind: str,
    number: int,
    *,
    count: int = 1,
    deferred: int = 0,
    template: str = "",
) -> Drained:
    """Fill the queue, then start the workers, and time them.

    Args:
        servers: where.
        contender: who.
        kind: `create`, `move` or `noop`.
        number: the jobs to wait for.
        count: how many workers.
        deferred: jobs beside them that are not due for an hour.
        template: of the database; by default the one that the kind needs.
    """
    await begin(servers, contender, kind, template)
    if deferred:
        await asyncio.to_thread(ask, servers, contender, "fill", kind, deferred, 3600)
    filled = await asyncio.to_thread(ask, servers, contender, "fill", kind, number)
    with tempfile.NamedTemporaryFile() as ticks:
        environment = {"BENCH_TICK": ticks.name}
        rows = "task" if template.startswith("grown_") else ""
        async with counter(servers, kind, Path(ticks.name), rows) as done:
            with workers(servers, contender, kind, count, **environment) as running:
                return await _timed(servers, done, running, number, filled)


async def begin(servers: Servers, contender: Contender, kind: str, template: str = "") -> None:
    """A fresh start."""
    wanted = template or ("filled" if kind == "move" else "empty")
    await servers.begin_again(wanted, contender.root)
    await asyncio.to_thread(prepare, servers, contender)


async def _timed(
    servers: Servers, done: Counter, running: Workers, number: int, filled: dict[str, Any]
) -> Drained:
    async with servers.redis() as redis, servers.database() as database:
        first = await until(done, max(1, int(number * _WARM)), running)
        started = time.monotonic()
        commands, trips = await redis_commands(redis)
        wal = await database.fetchval(_WAL)
        running.start_counting()
        last = await until(done, number, running)
        seconds = time.monotonic() - started
        cost = running.cost()
        more_commands, more_trips = await redis_commands(redis)
        more_wal = await database.fetchval(_WAL)
    jobs = last - first or number  # all at the first look: they took no longer than until then
    return Drained(
        jobs=number,
        rate=jobs / max(seconds, LOOK),
        redis_per_job=(more_commands - commands) / jobs,
        round_trips_per_job=(more_trips - trips) / jobs,
        wal_per_job=(more_wal - wal) / jobs,
        cost=cost,
        fill_rate=filled["jobs"] / filled["seconds"],
    )


@asynccontextmanager
async def counter(
    servers: Servers, kind: str, ticks: Path, rows: str = ""
) -> AsyncIterator[Counter]:
    """How many jobs have had their effect; `rows` names the table that shows it, where it is not the kind's."""
    if kind == "noop":

        async def ticked() -> int:
            return os.stat(ticks).st_size  # noqa: PTH116 - a microsecond, in memory

        yield ticked
        return
    async with servers.database() as database:
        rows = rows or ("task" if kind in ("call", "wait") else "audit_log")

        async def committed() -> int:
            return int(await database.fetchval(_COUNT[rows]))

        yield committed


async def until(done: Counter, number: int, running: Workers) -> int:
    """Wait until so many are done; how many are.

    Raises:
        Stuck: for a while none was.
        RuntimeError: a worker ended.
    """
    start = since = time.monotonic()
    first = before = -1
    while True:
        asked = time.monotonic()
        now = await done()
        answered = time.monotonic()
        if now >= number:
            return now
        if first < 0:
            start, first = answered, now
        if now != before:
            before, since = now, answered
        elif answered - since > PATIENCE:
            raise Stuck(f"{now} of {number} jobs, and no more for {PATIENCE} s")
        running.check()
        # at most half of what is left: the end must not be overslept
        gone = now - first
        half = (answered - start) / gone * (number - now) / 2 if gone else 0.0
        await asyncio.sleep(max(LOOK, min(_LIGHT * (answered - asked), half)))


async def rate_between(done: Counter, first: int, last: int, running: Workers) -> float:
    """Jobs a second from when so many are done to when so many more are. Raises as `until`."""
    before, since = await until(done, first, running), time.monotonic()
    now = await until(done, last, running)
    return (now - before) / (time.monotonic() - since)


async def rate_at_the_front(done: Counter, before: int, number: int, running: Workers) -> float:
    """Jobs a second, however many are queued: the workers are told to stop at `number`, and end what they have begun.

    Without that, what is under way at the end would count for a short queue only. `before` is how many were done when the
    workers started. Raises as `until`; Stuck also if a worker does not end.
    """
    first, since = await until(done, before + number // 5, running), time.monotonic()
    await until(done, before + number, running)
    for process in running.processes:
        process.terminate()
    now, at, deadline = first, since, time.monotonic() + PATIENCE
    while any(process.poll() is None for process in running.processes):
        if time.monotonic() > deadline:
            raise Stuck(f"a worker does not end within {PATIENCE} s")
        found = await done()
        if found != now:
            now, at = found, time.monotonic()
        await asyncio.sleep(LOOK / 5)
    return (now - first) / (at - since)


async def redis_at_rest(servers: Servers) -> None:
    """Wait until Redis has rewritten its append-only file, which a long fill makes it do, and which takes a core.

    Raises:
        Stuck: it takes minutes.
    """
    async with servers.redis() as redis:
        for _ in range(_REWRITE):
            await asyncio.sleep(1)  # Redis looks every 100 ms whether it is to rewrite the file
            told = await redis.info("persistence")
            if not told["aof_rewrite_in_progress"] and not told["aof_rewrite_scheduled"]:
                return
    raise Stuck(f"Redis rewrites its append-only file for more than {_REWRITE} s")


async def redis_commands(redis: Any) -> tuple[int, int]:
    """Commands that Redis has executed, those inside scripts too, and how often a client asked."""
    stats = await redis.info("stats")
    return int(stats["total_commands_processed"]), int(stats["total_reads_processed"])
