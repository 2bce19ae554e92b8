"""What the tests say often."""

import asyncio
import os
import types
from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, TypeVar

import arq
import pytest
import redis as redis_sync
from sqlalchemy import func, select, text
from sqlmodel import SQLModel, col

from db import projects, tasks
from db.inputs import NewProject, NewTask
from db.models import Task
from db.models.soft_delete import INCLUDE_DELETED
from ledgerq.app import App
from ledgerq.config import Config
from ledgerq.database.engine import Sessions
from ledgerq.database.transaction import transaction
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.outcome import Outcome
from ledgerq.execution.process import process
from ledgerq.execution.registry import Registry
from ledgerq.execution.retry import Policy
from ledgerq.schedule import Recurring
from ledgerq.staging import Sender
from ledgerq.store import inbox, outbox
from ledgerq.store.audit import Origin
from ledgerq.store.tables import AuditLog, DeadLetter, JobState, ProcessedJob
from ledgerq.wire.envelope import Envelope, encode
from ledgerq.wire.payload import Payload
from ledgerq.worker.build import build_worker, worker_settings
from ledgerq.worker.worker import JobWorker
from worker.app import app

T = TypeVar("T")
M = TypeVar("M", bound=SQLModel)

EVERYTHING = {INCLUDE_DELETED: True}
ORIGIN = Origin(actor="test")


def own(name: str) -> str:
    """A name of this test process for what a whole server has: a role, a template."""
    return f"{name}_{own_number()}"


def own_number() -> int:
    """Which this test process is of those that `-n` has started, from 0."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def redis_number(url: str) -> int:
    """The number of the database that a Redis URL names."""
    with redis_sync.Redis.from_url(url) as client:
        return int(client.connection_pool.connection_kwargs.get("db") or 0)


async def new_project(sessions: Sessions, name: str = "Launch") -> int:
    async with transaction(sessions) as session:
        return (await projects.create(session, ORIGIN, NewProject(name=name))).id


async def new_task(sessions: Sessions, **fields: Any) -> Task:
    if "project_id" not in fields:
        fields["project_id"] = await new_project(sessions)
    async with transaction(sessions) as session:
        return await tasks.create(session, ORIGIN, NewTask(**{"title": "A task", **fields}))


async def rows(sessions: Sessions, table: type[M]) -> Sequence[M]:
    async with sessions() as session:
        return (await session.scalars(select(table), execution_options=EVERYTHING)).all()


async def count(sessions: Sessions, table: type[SQLModel]) -> int:
    async with sessions() as session:
        counted = select(func.count()).select_from(table)
        return await session.scalar(counted, execution_options=EVERYTHING) or 0


async def history(sessions: Sessions, entity_type: str, entity_id: int) -> Sequence[AuditLog]:
    async with sessions() as session:
        entries = select(AuditLog).where(
            col(AuditLog.entity_type) == entity_type, col(AuditLog.entity_id) == str(entity_id)
        )
        return (await session.scalars(entries.order_by(col(AuditLog.id)))).all()


async def done(sessions: Sessions) -> int:
    """How many jobs are done, by the inbox."""
    async with sessions() as session:
        return (await inbox.count(session)).get(JobState.DONE, 0)


async def effects(sessions: Sessions, job_id: str) -> tuple[int, int, int]:
    """Tasks, audit entries and inbox rows that a create_task job of that id left."""
    async with sessions() as session:
        entries = (
            await session.scalars(select(AuditLog).where(col(AuditLog.job_id) == job_id))
        ).all()
        ids = [int(entry.entity_id) for entry in entries]
        left = select(func.count()).select_from(Task).where(col(Task.id).in_(ids))
        done = select(func.count()).where(
            col(ProcessedJob.job_id) == job_id, col(ProcessedJob.state) == JobState.DONE
        )
        return await session.scalar(left) or 0, len(entries), await session.scalar(done) or 0


async def letter(sessions: Sessions, job_id: str) -> DeadLetter:
    async with sessions() as session:
        found = select(DeadLetter).where(col(DeadLetter.job_id) == job_id)
        return (await session.scalars(found)).one()


def delivery(payload: Payload, job_id: str = "job-1", attempt: int = 1) -> Delivery:
    envelope = Envelope(
        payload.kind, payload.model_dump(mode="json", exclude_unset=True), actor="tester"
    )
    return Delivery(job_id, attempt, encode(envelope))


async def process_one(
    arrived: Delivery, registry: Registry, sessions: Sessions, policy: Policy
) -> Outcome:
    """A batch of one."""
    [outcome] = await process([arrived], registry, sessions, policy)
    return outcome


async def staged_delivery(sessions: Sessions, job_id: str) -> Delivery:
    """A staged job as the relay sends it."""
    async with sessions() as session:
        message = await outbox.find(session, job_id)
    assert message
    envelope = Envelope(message.kind, message.payload, message.actor, message.trace_id, staged=True)
    return Delivery(job_id, 1, encode(envelope))


def stock_worker(config: Config, registry: Registry, **overrides: Any) -> arq.Worker:
    """arq's own engine on our settings, as `arq worker.app.WorkerSettings` builds it, but without its schedule."""
    schedule = overrides.pop("schedule", ())
    settings = worker_settings(app_of(registry, schedule), config)
    return arq.worker.create_worker(settings, **overrides)


def our_worker(config: Config, registry: Registry, **overrides: Any) -> JobWorker:
    """Without a schedule unless one is given: a test's worker runs no job because it is 12:41."""
    schedule = overrides.pop("schedule", ())
    return build_worker(app_of(registry, schedule), config, **overrides)


def app_of(registry: Registry, schedule: Iterable[Recurring]) -> App:
    """The application with other kinds, by other times; its worker uses this registry."""
    known = [each for each in schedule if each.payload.kind in registry]
    changed = replace(app, jobs=registry, schedule=known, forget_ended_jobs=False)

    def the_registry(resources: Any = None, client: Sender | None = None) -> Registry:
        used = copy(registry)  # the next worker has another client
        used.client = client
        return used

    object.__setattr__(changed, "registry", the_registry)
    return changed


async def drain(worker: arq.Worker) -> None:
    """Run until the queue is empty, then close."""
    try:
        await worker.main()
    finally:
        await worker.close()


async def halt(worker: arq.Worker, running: asyncio.Task[None]) -> None:
    """Stop a worker between two jobs: arq's own can leak the engine if it is cancelled in one."""
    worker.allow_pick_jobs = False
    while not all(task.done() for task in worker.tasks.values()):
        await asyncio.gather(*worker.tasks.values())
    while not running.done():
        running.cancel()  # again: Python 3.11's wait_for, inside redis-py, can swallow one
        await asyncio.wait({running}, timeout=0.5)
    await worker.close()


async def eventually(condition: Any, *, seconds: float = 20) -> Any:
    """Wait until the coroutine function answers something true: for what no event tells us."""
    async with asyncio.timeout(seconds):
        while not (answer := await condition()):
            await asyncio.sleep(0.01)
    return answer


def cancelled_at(step: int, work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
    """`work`, whose task is cancelled at its `step`-th await, wherever that is."""
    awaits = 0

    def cancel() -> None:
        nonlocal awaits
        awaits += 1
        if awaits == step:
            task = asyncio.current_task()
            assert task
            task.cancel()

    async def run() -> T:
        answer = await stepped(work, cancel)
        if awaits < step:
            raise NeverReached(answer)
        return answer

    return run()


def stepped(work: Coroutine[Any, Any, T], at_await: Callable[[], None]) -> Coroutine[Any, Any, T]:
    """`work`, at each of whose awaits the function is called first."""

    @types.coroutine
    def drive() -> Generator[Any, Any, T]:
        send: tuple[Any, ...] = (work.send, None)
        while True:
            try:
                future = send[0](send[1])
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            at_await()
            try:
                send = (work.send, (yield future))
            except BaseException as error:  # noqa: BLE001 - handed on to the work
                send = (work.throw, error)

    async def run() -> T:
        return await drive()

    return run()


class NeverReached(Exception):
    """The work was done before its `step`-th await."""


async def waiting_for_a_lock(sessions: Sessions, statement: str) -> bool:
    """True once some backend of this database waits for a lock in such a statement."""
    async with sessions() as session:
        waiting = await session.scalar(
            text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND wait_event_type = 'Lock' AND query ILIKE :start"
            ),
            {"start": f"{statement}%"},
        )
        return bool(waiting)


both_engines = pytest.mark.parametrize("engine", [our_worker, stock_worker])


def time_of_id(job_id: str) -> float:
    """When an id of version 7 was made, in seconds since 1970."""
    return int(job_id[:12], 16) / 1000
