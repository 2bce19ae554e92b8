"""What is measured, as segments of a round."""

import asyncio
import functools
import signal
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from bench.latency import latencies
from bench.measure import (
    Drained,
    begin,
    counter,
    drain,
    rate_at_the_front,
    rate_between,
    redis_at_rest,
    redis_commands,
    until,
)
from bench.processes import Contender, Workers, ask, workers
from bench.rounds import Pacing, Segment
from bench.servers import GROWN, Servers

SETTLE = 4.0  # seconds that an idle worker is given to come to rest
# jobs for each of many workers, which are not counted: some for each of its connections
_WARM_EACH = 1_600
FEW, MANY = 10_000, 1_000_000
YOUNG, OLD = "0 receipts", f"{GROWN:,} receipts"
_FRONT = 6_000  # jobs at the front of the queue; some 2,000 more may be under way at their end
_STARTS = 5  # workers, one after another, that work at the front …
_SHORT_OF = 0.05  # … of a queue that is filled up if so much of it is missing
SHORT, LONG = f"{FEW:,} queued", f"{MANY:,} queued"

ContenderWork = Callable[[Contender, Pacing], Awaitable[dict[str, float]]]


def drains(servers: Servers, kind: str, contenders: Iterable[Contender]) -> list[Segment]:
    """Throughput of one worker process, and what it cost."""

    async def work(contender: Contender, pace: Pacing) -> dict[str, float]:
        drained = await drain(servers, contender, kind, pace.jobs)
        pace.learn(drained.rate)
        if kind == "create":
            await _check(servers, drained.jobs)
        return {
            kind: drained.rate,
            f"{kind}: Redis commands a job": drained.redis_per_job,
            f"{kind}: Redis round trips a job": drained.round_trips_per_job,
            f"{kind}: WAL bytes a job": drained.wal_per_job,
            f"{kind}: cores busy": drained.cost.cores,
            f"{kind}: MB": drained.cost.rss_mb,
        }

    return [_segment(kind, each, work) for each in contenders]


def grown(servers: Servers, contenders: Iterable[Contender]) -> list[Segment]:
    """Throughput on empty tables, and where so many jobs have ended before."""

    async def work(
        contender: Contender, template: str, name: str, pace: Pacing
    ) -> dict[str, float]:
        drained = await drain(servers, contender, "create", pace.jobs, template=template)
        pace.learn(drained.rate)
        return {name: drained.rate, f"{name}: WAL bytes a job": drained.wal_per_job}

    return [
        Segment(name, each.name, functools.partial(work, each, template, name))
        for each in contenders
        for template, name in (("empty", YOUNG), (f"grown_{GROWN}", OLD))
    ]


def enqueues(servers: Servers, contenders: Iterable[Contender]) -> list[Segment]:
    """Jobs put on the queue a second: one after another, and many at once. Nobody works on them."""

    async def single(contender: Contender, pace: Pacing) -> dict[str, float]:
        await begin(servers, contender, "create")
        said = await asyncio.to_thread(ask, servers, contender, "single", "create", pace.jobs)
        pace.learn(said["jobs"] / said["seconds"])
        return {"enqueue, one at a time": said["jobs"] / said["seconds"]}

    async def bulk(contender: Contender, pace: Pacing) -> dict[str, float]:
        await begin(servers, contender, "create")
        said = await asyncio.to_thread(ask, servers, contender, "fill", "create", pace.jobs)
        pace.learn(said["jobs"] / said["seconds"])
        return {"enqueue, in bulk": said["jobs"] / said["seconds"]}

    return [
        segment
        for each in contenders
        for segment in (
            _segment("enqueue, one at a time", each, single),
            _segment("enqueue, in bulk", each, bulk),
        )
    ]


def latency(
    servers: Servers, name: str, rate: float, seconds: float, contenders: Iterable[Contender]
) -> list[Segment]:
    """From enqueue to commit, in milliseconds."""

    async def work(contender: Contender, pace: Pacing) -> dict[str, float]:
        found = await latencies(servers, contender, rate, seconds)
        return {f"{name}, {cut}": value for cut, value in found.items()}

    return [
        Segment(f"{name}, p50", each.name, functools.partial(work, each)) for each in contenders
    ]


def idle(servers: Servers, seconds: float, contenders: Iterable[Contender]) -> list[Segment]:
    """What a worker costs that has nothing to do."""

    async def work(contender: Contender, pace: Pacing) -> dict[str, float]:
        await begin(servers, contender, "create")
        with workers(servers, contender, "create") as running:
            await _bring_up(servers, contender, running)
            async with servers.redis() as redis:
                commands, trips = await redis_commands(redis)
                running.start_counting()
                await asyncio.sleep(seconds)
                cost = running.cost()
                more, more_trips = await redis_commands(redis)
        return {
            "idle, % of a core": cost.cores * 100,
            "idle, Redis commands/s": (more - commands - 1) / seconds,
            "idle, Redis round trips/s": (more_trips - trips - 1) / seconds,
            "idle, MB": cost.rss_mb,
        }

    return [_segment("idle, % of a core", each, work) for each in contenders]


def scaling(
    servers: Servers, counts: Iterable[int], jobs: int, contenders: Iterable[Contender]
) -> list[Segment]:
    """Total throughput of many workers on two cores: what they cost each other."""

    async def work(contender: Contender, count: int, pace: Pacing) -> dict[str, float]:
        drained = await crowd(servers, contender, count, jobs)
        return {
            f"{count} workers": drained.rate,
            f"{count} workers: Redis commands a job": drained.redis_per_job,
            f"{count} workers: Redis round trips a job": drained.round_trips_per_job,
        }

    return [
        Segment(f"{count} workers", each.name, functools.partial(work, each, count))
        for each in contenders
        for count in counts
    ]


async def crowd(servers: Servers, contender: Contender, count: int, jobs: int) -> Drained:
    """Start many workers, let each work for a moment, then let all at once find a full queue.

    What a process and its connections need once, at their first jobs, is not measured: on two cores
    it would be a third of the time of 32 workers. They stand still while the queue fills: the client
    that fills it would have a thirtieth of the time, and its speed would be measured.
    """
    await begin(servers, contender, "create")
    async with counter(servers, "create", Path()) as done:
        with workers(servers, contender, "create", count) as running:
            await _at_rest(running)
            warm = _WARM_EACH * count
            await _fill_paused(servers, contender, running, warm)
            await until(done, warm, running)
            await _at_rest(running)
            async with servers.redis() as redis:
                commands, trips = await redis_commands(redis)
                filled = await _fill_paused(servers, contender, running, jobs)
                running.start_counting()
                rate = await rate_between(done, warm + jobs // 10, warm + jobs, running)
                more, more_trips = await redis_commands(redis)
            cost = running.cost()
    return Drained(
        jobs=jobs,
        rate=rate,
        redis_per_job=(more - commands) / jobs,
        round_trips_per_job=(more_trips - trips) / jobs,
        wal_per_job=0.0,
        cost=cost,
        fill_rate=filled["jobs"] / filled["seconds"],
    )


async def _fill_paused(
    servers: Servers, contender: Contender, running: Workers, jobs: int
) -> dict[str, float]:
    with running.paused():
        return await asyncio.to_thread(ask, servers, contender, "fill", "create", jobs)


async def front(servers: Servers, contender: Contender, queued: int) -> float:
    """Jobs a second at the front of a queue of so many: half a second each, so it is the median of several new workers."""
    await begin(servers, contender, "create")
    rates, filled = list[float](), 0
    async with counter(servers, "create", Path()) as done:
        for _ in range(_STARTS):
            before = await done()
            if (missing := queued - (filled - before)) > queued * _SHORT_OF:
                await asyncio.to_thread(ask, servers, contender, "fill", "create", missing)
                filled += missing
                await redis_at_rest(servers)
            with workers(servers, contender, "create") as running:
                rates.append(await rate_at_the_front(done, before, _FRONT, running))
    return statistics.median(rates)


def depth(servers: Servers, deferred: int, contenders: Iterable[Contender]) -> list[Segment]:
    """Throughput at the front of 10,000 jobs and of a million; and of 10,000 to their end, with so many that are not due yet.

    The million is then worked off: is the worker as large at its end as after the first tenth?
    """

    async def short(contender: Contender, pace: Pacing) -> dict[str, float]:
        return {SHORT: await front(servers, contender, FEW)}

    async def held(contender: Contender, pace: Pacing) -> dict[str, float]:
        drained = await drain(servers, contender, "create", FEW, deferred=deferred)
        return {f"{deferred:,} deferred": drained.rate}

    async def long(contender: Contender, pace: Pacing) -> dict[str, float]:
        first = await front(servers, contender, MANY)
        async with counter(servers, "create", Path()) as done:
            with workers(servers, contender, "create") as running:
                await until(done, MANY // 10, running)
                before = running.cost().rss_mb
                rest = await rate_between(done, MANY // 10, MANY, running)
                after = running.cost().rss_mb
        await _check(servers, MANY)
        return {
            LONG: first,
            f"{LONG}, all of them": rest,
            f"{LONG}: MB after a tenth": before,
            f"{LONG}: MB at the end": after,
        }

    kinds = ((SHORT, short), (LONG, long), (f"{deferred:,} deferred", held))
    return [_segment(name, each, work) for each in contenders for name, work in kinds]


def recovery(servers: Servers, contenders: Iterable[Contender]) -> list[Segment]:
    """Kill one of two workers in the middle of its work: seconds until the last job is committed."""

    async def work(contender: Contender, pace: Pacing) -> dict[str, float]:
        jobs = 3_000
        await begin(servers, contender, "create")
        await asyncio.to_thread(ask, servers, contender, "fill", "create", jobs)
        async with counter(servers, "create", Path()) as done:
            with workers(servers, contender, "create", 2) as running:
                await until(done, jobs // 10, running)
                running.processes.pop(0).send_signal(signal.SIGKILL)
                killed = time.monotonic()
                await until(done, jobs, running)
                seconds = time.monotonic() - killed
        await _check(servers, jobs)
        return {"recovery, s": seconds}

    return [_segment("recovery, s", each, work) for each in contenders]


def _segment(workload: str, contender: Contender, work: ContenderWork) -> Segment:
    return Segment(workload, contender.name, functools.partial(work, contender))


async def _check(servers: Servers, jobs: int) -> None:
    """Each job left one task and one entry, or the number is worth nothing."""
    async with servers.database() as database:
        tasks = await database.fetchval("SELECT count(*) FROM task")
        entries = await database.fetchval("SELECT count(*) FROM audit_log WHERE action = 'create'")
    if not tasks == entries == jobs:
        raise RuntimeError(f"{jobs} jobs left {tasks} tasks and {entries} entries")


async def _bring_up(servers: Servers, contender: Contender, running: Workers) -> None:
    """Some jobs first, so that connections are open, and then rest."""
    await asyncio.to_thread(ask, servers, contender, "fill", "create", 100)
    async with counter(servers, "create", Path()) as done:
        await until(done, 100, running)
    await asyncio.sleep(SETTLE)


async def _at_rest(running: Workers) -> None:
    """Wait until the workers have started: until all of them together are idle for a second."""
    for _ in range(120):
        running.check()
        running.start_counting()
        await asyncio.sleep(1)
        if running.cost().cores < 0.02 * len(running.processes) + 0.15:
            return
    raise RuntimeError("the workers do not come to rest")
