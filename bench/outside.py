"""Jobs that wait for something outside of the database: a service of 100 ms, or just time.

A job calls the service and then writes one row. What that holds of the database is looked at from outside, in
pg_stat_activity, every 20 ms: the connections that are open, and those that are in use, which is each that is not idle.
"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from bench.measure import begin, counter, until
from bench.processes import Contender, ask, workers
from bench.rounds import Pacing, Segment
from bench.servers import HARNESS, Servers
from bench.service import capacity, service
from ledgerq.broker.keys import running_key

AT_ONCE = 100  # calls, for everybody: what ledgerq's worker does by default
OWN = {
    "ours": 100,
    "arq": 10,
    "saq": 10,
    "taskiq": 100,
    "procrastinate": 1,
    "dbos": 0,
}  # 0: no limit
CALL, CALL_OWN, SERVICE = "call", "call, own number", "service"
SECONDS, MEMORY, HELD = (
    "waiting, 500 of 1 s, s",
    "waiting, 1,000, MB",
    "waiting, 1,000, connections",
)
_QUEUE = "arq:queue"
_LOOK = 0.02  # seconds between two looks at the connections
_WARM = 20  # jobs before those that count
_CONNECTIONS = """
SELECT count(*) AS open, count(*) FILTER (WHERE state <> 'idle') AS in_use
FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> $1
"""


@dataclass(slots=True)
class Connections:
    """How many connections a contender had at each look."""

    open: list[int] = field(default_factory=list)
    in_use: list[int] = field(default_factory=list)

    def of(self, workload: str) -> dict[str, float]:
        """The values of a round."""
        return {
            f"{workload}: connections, median": statistics.median(self.open),
            f"{workload}: connections, most": max(self.open),
            f"{workload}: in use, median": statistics.median(self.in_use),
            f"{workload}: in use, most": max(self.in_use),
        }


@asynccontextmanager
async def connections(servers: Servers) -> AsyncIterator[Connections]:
    """Looks at them for the length of the block."""
    found = Connections()
    async with servers.database() as database:

        async def look() -> None:
            while True:
                row = await database.fetchrow(_CONNECTIONS, HARNESS)
                assert row
                found.open.append(row["open"])
                found.in_use.append(row["in_use"])
                await asyncio.sleep(_LOOK)

        looking = asyncio.create_task(look())
        try:
            yield found
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking


def calls(
    servers: Servers, jobs_each: int, contenders: Iterable[Contender], *, own: bool
) -> list[Segment]:
    """Jobs a second of one worker, with as many calls at once for everybody; if `own`, with each one's own number too.

    `jobs_each` is how many jobs there are for each that runs at once. The service is measured alone too.
    """
    segments = [Segment(CALL, SERVICE, _alone)]
    for each in contenders:
        for name, at_once in ((CALL, AT_ONCE), (CALL_OWN, OWN[each.name]))[: 1 + own]:
            work = partial(_calls, servers, name, each, at_once, jobs_each)
            segments.append(Segment(name, each.name, work))
    return segments


async def _alone(_: Pacing) -> dict[str, float]:
    with service() as url:
        return {CALL: await capacity(url)}


async def _calls(
    servers: Servers, name: str, contender: Contender, at_once: int, jobs_each: int, _: Pacing
) -> dict[str, float]:
    number = {"BENCH_CONCURRENCY": str(at_once)}
    contender = replace(contender, environment={**contender.environment, **number})
    jobs = max(20, (at_once or AT_ONCE) * jobs_each)
    warm = jobs // 10
    await begin(servers, contender, "call")
    await asyncio.to_thread(ask, servers, contender, "fill", "call", jobs)
    with service() as url:
        async with counter(servers, "call", Path()) as done:
            with workers(servers, contender, "call", BENCH_SERVICE=url) as running:
                first = await until(done, warm, running)
                running.start_counting()
                async with connections(servers) as found:
                    last = await until(done, jobs, running)
                cost = running.cost()
    return {
        name: (last - first) / cost.seconds,
        **found.of(name),
        f"{name}: cores busy": cost.cores,
        f"{name}: MB": cost.rss_mb,
    }


def waiting(servers: Servers, contenders: Iterable[Contender]) -> list[Segment]:
    """What jobs cost that only wait."""
    return [
        Segment(name, each.name, partial(work, servers, _with_plain(each)))
        for each in contenders
        for name, work in ((SECONDS, _five_hundred), (MEMORY, _thousand))
    ]


def _with_plain(contender: Contender) -> Contender:
    """The contender, whose jobs of the kind `create` are those of its bare service: they warm its worker up."""
    return replace(contender, environment={**contender.environment, "BENCH_HANDLER": "own"})


async def _five_hundred(servers: Servers, contender: Contender, _: Pacing) -> dict[str, float]:
    """Seconds until 500 jobs have waited a second each, on one worker at its defaults that stands ready."""
    await begin(servers, contender, "wait")
    async with counter(servers, "wait", Path()) as done:
        with workers(servers, contender, "wait", BENCH_WAIT="1") as running:
            await asyncio.to_thread(ask, servers, contender, "fill", "create", _WARM)
            await until(done, _WARM, running)
            with running.paused():
                await asyncio.to_thread(ask, servers, contender, "fill", "wait", 500)
            started = time.monotonic()
            await until(done, _WARM + 500, running)
            return {SECONDS: time.monotonic() - started}


async def _thousand(servers: Servers, contender: Contender, _: Pacing) -> dict[str, float]:
    """The memory and the connections of a worker in which 1,000 jobs wait, beside those of the worker at rest."""
    await begin(servers, contender, "wait")
    async with counter(servers, "wait", Path()) as done:
        with workers(
            servers, contender, "wait", BENCH_WAIT="600", LEDGERQ_MAX_OUTSIDE="1000"
        ) as running:
            await asyncio.to_thread(ask, servers, contender, "fill", "create", 10 * _WARM)
            await until(done, 10 * _WARM, running)
            await _comes_to_rest(servers)
            before = running.cost().rss_mb
            await asyncio.to_thread(ask, servers, contender, "fill", "wait", 1_000)
            await _all_wait(servers, 1_000)
            await _comes_to_rest(servers)
            async with connections(servers) as found:
                await asyncio.sleep(1)
            after = running.cost().rss_mb
            running.processes[0].kill()  # they would wait for ten minutes
    return {
        MEMORY: after - before,
        HELD: statistics.median(found.in_use),
        f"{HELD}: open in the pool": max(found.open),
        f"{MEMORY}: in all": after,
    }


async def _all_wait(servers: Servers, number: int) -> None:
    async with servers.redis() as redis:
        for _ in range(600):
            if len(await redis.hkeys(running_key(_QUEUE))) == number:  # type: ignore[misc]
                return
            await asyncio.sleep(0.1)
    raise RuntimeError(f"not all of {number} jobs wait")


async def _comes_to_rest(servers: Servers) -> None:
    """Wait until no connection was in use for a second."""
    for _ in range(60):
        async with connections(servers) as found:
            await asyncio.sleep(1)
        if statistics.median(found.in_use) == 0:
            return
    raise RuntimeError("the worker does not come to rest")
