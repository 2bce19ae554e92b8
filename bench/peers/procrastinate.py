"""Procrastinate 3.10 on the same PostgreSQL: woken by NOTIFY, done jobs deleted, many at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from procrastinate import App, JobContext, PsycopgConnector

from bench.peers import calls, common, tables
from bench.peers.common import CONCURRENCY, Jobs

app = App(connector=PsycopgConnector(conninfo=tables.DATABASE_URL, min_size=4, max_size=10))


@app.task(name="create", pass_context=True)
async def create(context: JobContext, argument: str) -> int:
    sessions = context.additional_context["sessions"]
    return await tables.create(sessions, str(context.job.id), argument)


@app.task(name="move", pass_context=True)
async def move(context: JobContext, argument: int) -> int:
    sessions = context.additional_context["sessions"]
    return await tables.move(sessions, str(context.job.id), argument)


@app.task(name="call", pass_context=True)
async def call(context: JobContext, argument: str) -> int:
    await calls.call()
    return await tables.add(context.additional_context["sessions"], argument)


@app.task(name="noop")
async def noop(argument: int) -> None:
    common.tick()


TASKS: dict[str, Any] = {"create": create, "move": move, "call": call, "noop": noop}


class Producer:
    """Enqueues by the task itself, in bulk by its batch call."""

    async def one(self, kind: str, argument: str | int) -> None:
        await TASKS[kind].defer_async(argument=argument)

    async def many(self, jobs: Jobs) -> None:
        task = TASKS[jobs.kind]
        if jobs.delay:
            task = task.configure(schedule_in={"seconds": int(jobs.delay)})
        for chunk in jobs.chunks(1000):
            await task.batch_defer_async(*({"argument": each} for each in chunk))


class Procrastinate:
    """The peer."""

    def prepare(self) -> None:
        asyncio.run(self._prepare())

    async def _prepare(self) -> None:
        async with app.open_async():
            await app.schema_manager.apply_schema_async()

    def worker(self) -> None:
        asyncio.run(self._work())

    async def _work(self) -> None:
        engine, sessions = tables.asynchronous()
        async with app.open_async():
            await app.run_worker_async(
                concurrency=CONCURRENCY,
                delete_jobs="successful",
                additional_context={"sessions": sessions},
            )
        await engine.dispose()

    @asynccontextmanager
    async def producer(self) -> AsyncIterator[Producer]:
        async with app.open_async():
            yield Producer()


if __name__ == "__main__":
    common.main(Procrastinate())
