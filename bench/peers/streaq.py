"""streaq 7 on Redis streams: its own command line, uvloop, silent tasks that keep no results."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from streaq import Worker

from bench.peers import common, tables
from bench.peers.common import CONCURRENCY, REDIS_URL, Jobs


@dataclass(frozen=True, slots=True)
class Context:
    """What the tasks share."""

    sessions: async_sessionmaker[AsyncSession]


@asynccontextmanager
async def lifespan() -> AsyncIterator[Context]:
    engine, sessions = tables.asynchronous()
    yield Context(sessions)
    await engine.dispose()


worker = Worker(
    redis_url=REDIS_URL,
    concurrency=CONCURRENCY,
    lifespan=lifespan,
    anyio_kwargs={"use_uvloop": True},
)


@worker.task(ttl=0, silent=True, name="create")
async def create(argument: str) -> int:
    return await tables.create(worker.context.sessions, create.context.task_id, argument)


@worker.task(ttl=0, silent=True, name="move")
async def move(argument: int) -> int:
    return await tables.move(worker.context.sessions, move.context.task_id, argument)


@worker.task(ttl=0, silent=True, name="noop")
async def noop(argument: int) -> None:
    common.tick()


TASKS = {"create": create, "move": move, "noop": noop}


class Producer:
    """Enqueues by streaq's own client; in bulk by its pipeline."""

    async def one(self, kind: str, argument: str | int) -> None:
        await TASKS[kind].enqueue(argument)

    async def many(self, jobs: Jobs) -> None:
        task = TASKS[jobs.kind]
        for chunk in jobs.chunks(1000):
            new = [task.enqueue(each) for each in chunk]
            if jobs.delay:
                new = [each.start(delay=int(jobs.delay)) for each in new]
            await worker.enqueue_many(new)


class Streaq:
    """The peer."""

    def prepare(self) -> None:
        """Nothing to make."""

    def worker(self) -> None:
        common.run_command("streaq", "run", "bench.peers.streaq:worker")

    @asynccontextmanager
    async def producer(self) -> AsyncIterator[Producer]:
        async with worker:
            yield Producer()


if __name__ == "__main__":
    common.main(Streaq())
