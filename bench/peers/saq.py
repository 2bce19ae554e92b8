"""SAQ 0.26 on Redis: its own command line, quiet, many operations at once."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from saq import Queue

from bench.peers import calls, common, tables
from bench.peers.common import CONCURRENCY, REDIS_URL, Jobs

queue = Queue.from_url(REDIS_URL, max_concurrent_ops=CONCURRENCY)


async def create(ctx: dict[str, Any], *, argument: str) -> int:
    return await tables.create(ctx["sessions"], ctx["job"].id, argument)


async def move(ctx: dict[str, Any], *, argument: int) -> int:
    return await tables.move(ctx["sessions"], ctx["job"].id, argument)


async def call(ctx: dict[str, Any], *, argument: str) -> int:
    await calls.call()
    return await tables.add(ctx["sessions"], argument)


async def noop(ctx: dict[str, Any], *, argument: int) -> None:
    common.tick()


async def startup(ctx: dict[str, Any]) -> None:
    ctx["engine"], ctx["sessions"] = tables.asynchronous()


async def shutdown(ctx: dict[str, Any]) -> None:
    await ctx["engine"].dispose()


settings = {
    "queue": queue,
    "functions": [create, move, call, noop],
    "concurrency": CONCURRENCY,
    "startup": startup,
    "shutdown": shutdown,
}


class Producer:
    """Enqueues by SAQ's queue; it has no bulk call, so many calls go at once."""

    async def one(self, kind: str, argument: str | int) -> None:
        await queue.enqueue(kind, argument=argument, ttl=-1)

    async def many(self, jobs: Jobs) -> None:
        when = int(time.time() + jobs.delay) if jobs.delay else 0
        await common.in_parallel(
            jobs, lambda each: queue.enqueue(jobs.kind, argument=each, ttl=-1, scheduled=when)
        )


class Saq:
    """The peer. `ttl=-1` keeps no results."""

    def prepare(self) -> None:
        """Nothing to make."""

    def worker(self) -> None:
        common.run_command("saq", "--quiet", "bench.peers.saq.settings")

    @asynccontextmanager
    async def producer(self) -> AsyncIterator[Producer]:
        await queue.connect()
        yield Producer()
        await queue.disconnect()


if __name__ == "__main__":
    common.main(Saq())
