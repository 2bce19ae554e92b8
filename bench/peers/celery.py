"""Celery 5.7 on Redis: prefork, a process for each job at once, synchronous SQLAlchemy, no results."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from celery import Celery, Task
from sqlalchemy.orm import Session, sessionmaker

from bench.peers import common, tables
from bench.peers.common import CONCURRENCY, REDIS_URL, Jobs

app = Celery("bench", broker=REDIS_URL)
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=16,  # its optimising guide: many for short tasks
    worker_send_task_events=False,
    task_serializer="json",
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    broker_pool_limit=10,
)


@cache
def sessions() -> sessionmaker[Session]:
    """One engine for each process, made after the fork."""
    return tables.synchronous()


@app.task(bind=True, name="create")
def create(self: Task, argument: str) -> int:
    with sessions()() as session:
        task = tables.Task(title=argument, project_id=1)
        session.add(task)
        session.flush()
        session.add(tables.created(task, self.request.id))
        session.commit()
    return task.id or 0


@app.task(bind=True, name="move")
def move(self: Task, argument: int) -> int:
    with sessions()() as session:
        task = session.get_one(tables.Task, argument, with_for_update=True)
        session.add(tables.moved(task, self.request.id))
        session.commit()
    return argument


@app.task(name="noop")
def noop(argument: int) -> None:
    common.tick()


TASKS = {"create": create, "move": move, "noop": noop}


class Producer:
    """Enqueues one after another on one connection: Celery's client is synchronous."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer

    async def one(self, kind: str, argument: str | int) -> None:
        TASKS[kind].apply_async((argument,), producer=self._producer)

    async def many(self, jobs: Jobs) -> None:
        task, later = TASKS[jobs.kind], {"countdown": jobs.delay} if jobs.delay else {}
        for each in jobs.arguments:
            task.apply_async((each,), producer=self._producer, **later)


class CeleryPeer:
    """The peer."""

    def prepare(self) -> None:
        """Nothing to make."""

    def worker(self) -> None:
        quiet = ("--loglevel", "WARNING", "--without-gossip", "--without-mingle")
        many = ("--pool", "prefork", "--concurrency", str(CONCURRENCY), "-O", "fair")
        common.run_command("celery", "-A", "bench.peers.celery:app", "worker", *quiet, *many)

    @asynccontextmanager
    async def producer(self) -> AsyncIterator[Producer]:
        with app.producer_or_acquire() as producer:
            yield Producer(producer)


if __name__ == "__main__":
    common.main(CeleryPeer())
