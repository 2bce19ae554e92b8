"""DBOS 3.4 on the same PostgreSQL: a workflow of one step and one transaction, its tables in a schema beside the task's.

Its own limit is none at once and a look a second (`BENCH_CONCURRENCY=0`); else so many at once and a look every 50 ms.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dbos import DBOS, AsyncSQLAlchemyDatasource, DBOSClient, DBOSConfig

from bench.peers import calls, common, tables
from bench.peers.common import CONCURRENCY, Jobs

QUEUE = "bench"
VERSION = "bench"
config: DBOSConfig = {
    "name": "bench",
    "system_database_url": tables.DATABASE_URL,
    "application_version": VERSION,
    "log_level": "WARNING",
}
_datasources: list[AsyncSQLAlchemyDatasource] = []


@DBOS.step()
async def ask_service() -> str:
    return await calls.call()


async def write(title: str) -> int:
    task = tables.Task(title=title, project_id=1)
    session = _datasources[0].sql_session()
    session.add(task)
    await session.flush()
    return task.id or 0


@DBOS.workflow(name="call")
async def call(title: str) -> int:
    await ask_service()
    options = {"isolation_level": "READ COMMITTED"}
    task_id: int = await _datasources[0].run_tx_step_async(options, write, title)
    return task_id


async def _launch() -> None:
    """In the event loop of the process, so that workflows run there."""
    _datasources.append(await AsyncSQLAlchemyDatasource.create(tables.DATABASE_URL))
    DBOS(config=config)
    DBOS.launch()
    tuned = {"worker_concurrency": CONCURRENCY, "polling_interval_sec": 0.05}
    await DBOS.register_queue_async(QUEUE, **(tuned if CONCURRENCY else {}))


class Producer:
    """Enqueues by its client, which has no bulk call: so many calls go at once."""

    def __init__(self, client: DBOSClient) -> None:
        self._client = client

    async def one(self, kind: str, argument: str | int) -> None:
        options = {"workflow_name": kind, "queue_name": QUEUE, "app_version": VERSION}
        await self._client.enqueue_async(options, argument)

    async def many(self, jobs: Jobs) -> None:
        await common.in_parallel(jobs, lambda each: self.one(jobs.kind, each))


class Dbos:
    """The peer."""

    def prepare(self) -> None:
        asyncio.run(self._prepare())

    async def _prepare(self) -> None:
        await _launch()
        DBOS.destroy()

    def worker(self) -> None:
        asyncio.run(self._work())

    async def _work(self) -> None:
        await _launch()
        await asyncio.Event().wait()

    @asynccontextmanager
    async def producer(self) -> AsyncIterator[Producer]:
        client = DBOSClient(system_database_url=tables.DATABASE_URL)
        yield Producer(client)
        client.destroy()


if __name__ == "__main__":
    common.main(Dbos())
