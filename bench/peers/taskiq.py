"""Taskiq 0.13 with taskiq-redis: its quickest broker, a list, uvloop, one process, no results."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from taskiq import Context, TaskiqDepends, TaskiqEvents, TaskiqState
from taskiq_redis import ListQueueBroker

from bench.peers import calls, common, tables
from bench.peers.common import CONCURRENCY, REDIS_URL, Jobs

broker = ListQueueBroker(REDIS_URL, max_connection_pool_size=CONCURRENCY + 10)
Given = Annotated[Context, TaskiqDepends()]


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def startup(state: TaskiqState) -> None:
    state.engine, state.sessions = tables.asynchronous()


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def shutdown(state: TaskiqState) -> None:
    await state.engine.dispose()


@broker.task("create")
async def create(argument: str, context: Given) -> int:
    return await tables.create(context.state.sessions, context.message.task_id, argument)


@broker.task("move")
async def move(argument: int, context: Given) -> int:
    return await tables.move(context.state.sessions, context.message.task_id, argument)


@broker.task("call")
async def call(argument: str, context: Given) -> int:
    await calls.call()
    return await tables.add(context.state.sessions, argument)


@broker.task("noop")
async def noop(argument: int) -> None:
    common.tick()


TASKS = {"create": create, "move": move, "call": call, "noop": noop}


class Producer:
    """Enqueues by the task itself; it has no bulk call, so many calls go at once."""

    async def one(self, kind: str, argument: str | int) -> None:
        await TASKS[kind].kiq(argument)

    async def many(self, jobs: Jobs) -> None:
        await common.in_parallel(jobs, TASKS[jobs.kind].kiq)


class Taskiq:
    """The peer."""

    def prepare(self) -> None:
        """Nothing to make."""

    def worker(self) -> None:
        options = ("--workers", "1", "--log-level", "WARNING", "--no-parse")
        at_once = ("--max-async-tasks", str(CONCURRENCY), "--max-prefetch", str(CONCURRENCY))
        common.run_command("taskiq", "worker", *options, *at_once, "bench.peers.taskiq:broker")

    @asynccontextmanager
    async def producer(self) -> AsyncIterator[Producer]:
        await broker.startup()
        yield Producer()
        await broker.shutdown()


if __name__ == "__main__":
    common.main(Taskiq())
