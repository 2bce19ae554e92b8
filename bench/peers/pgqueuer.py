"""PgQueuer 1.6 on the same PostgreSQL: uvloop, large batches, a pool."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import uvloop
from pgqueuer import PgQueuer, Queries
from pgqueuer.db import AsyncpgPoolDriver
from pgqueuer.models import Job

from bench.peers import common, tables
from bench.peers.common import Jobs

BATCH = 100


@asynccontextmanager
async def main() -> AsyncIterator[PgQueuer]:
    """The factory that `pgq run` takes."""
    engine, sessions = tables.asynchronous()
    async with asyncpg.create_pool(tables.DATABASE_URL, min_size=4, max_size=10) as pool:
        app = PgQueuer.from_asyncpg_pool(pool)

        @app.entrypoint("create")
        async def create(job: Job) -> None:
            await tables.create(sessions, str(job.id), (job.payload or b"").decode())

        @app.entrypoint("move")
        async def move(job: Job) -> None:
            await tables.move(sessions, str(job.id), int(job.payload or 0))

        @app.entrypoint("noop")
        async def noop(job: Job) -> None:
            common.tick()

        yield app
    await engine.dispose()


class Producer:
    """Enqueues by its queries, in bulk by their lists."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    async def one(self, kind: str, argument: str | int) -> None:
        await self._queries.enqueue(kind, str(argument).encode())

    async def many(self, jobs: Jobs) -> None:
        later = timedelta(seconds=jobs.delay) if jobs.delay else None
        for chunk in jobs.chunks(5000):
            bodies: list[Any] = [str(each).encode() for each in chunk]
            size = len(chunk)
            await self._queries.enqueue([jobs.kind] * size, bodies, [0] * size, [later] * size)


class PgQueuerPeer:
    """The peer."""

    def prepare(self) -> None:
        asyncio.run(self._prepare())

    async def _prepare(self) -> None:
        async with asyncpg.create_pool(tables.DATABASE_URL, min_size=1) as pool:
            await Queries(AsyncpgPoolDriver(pool)).install()

    def worker(self) -> None:
        uvloop.run(self._work())  # as `pgq run` does, whose --log-level fails in this release

    async def _work(self) -> None:
        async with main() as app:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, app.shutdown.set)
            await app.run(batch_size=BATCH, max_concurrent_tasks=2 * BATCH)

    @asynccontextmanager
    async def producer(self) -> AsyncIterator[Producer]:
        async with asyncpg.create_pool(tables.DATABASE_URL, min_size=1) as pool:
            yield Producer(Queries(AsyncpgPoolDriver(pool)))


if __name__ == "__main__":
    common.main(PgQueuerPeer())
