"""What a service gives its handlers beside the session, and how long it lives."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from uuid import UUID

import pytest
from sqlmodel import select

from db.models import Project
from jobs.kinds import CreateProject, create_project
from ledgerq import App, Database, JobClient, JobContext, Payload, Sessions, job
from ledgerq.audit import Change
from ledgerq.config import Config
from ledgerq.errors import UnexpectedResult
from ledgerq.store.tables import AuditLog, OutboxMessage
from ledgerq.workers import build_worker, lifecycle_of
from tests.support import drain, rows
from worker.app import app


@dataclass
class Clients:
    """What a service might have."""

    greeting: str
    is_open: bool = True


class Greet(Payload[str], kind="greet"):
    """Whom to greet."""

    name: str


@job
async def greet(context: JobContext[Clients], whom: Greet) -> str:
    """Answers with a greeting, while the resources are open."""
    assert context.resources.is_open
    return f"{context.resources.greeting}, {whom.name}"


async def test_handlers_are_given_the_resources(config: Config, client: JobClient) -> None:
    """They are entered and left by one task, at the start and the end of the worker."""
    tasks, opened = list[object](), list[Clients]()

    @asynccontextmanager
    async def resources() -> AsyncIterator[Clients]:
        tasks.append(asyncio.current_task())
        opened.append(Clients("Hello"))
        try:
            yield opened[0]
        finally:
            opened[0].is_open = False
            tasks.append(asyncio.current_task())

    enqueued = await client.enqueue(Greet(name="world"))
    with_resources = App(jobs=[greet], resources=resources, forget_ended_jobs=False)
    await drain(build_worker(with_resources, config, burst=True, handle_signals=False))
    assert await enqueued.result(timeout=5) == "Hello, world"
    assert [each.is_open for each in opened] == [False]
    assert len(tasks) == len({*tasks}) + 1 == 2


async def test_resources_that_do_not_open_end_the_startup(config: Config) -> None:
    """With their own error; the engine is disposed all the same."""

    @asynccontextmanager
    async def resources() -> AsyncIterator[None]:
        if config.worker.redis_url:
            raise OSError("no such host")
        yield

    worker = build_worker(
        App(jobs=[greet], resources=resources, forget_ended_jobs=False),
        config,
        burst=True,
        handle_signals=False,
    )
    with pytest.raises(OSError, match="no such host"):
        await drain(worker)
    database = lifecycle_of(worker.ctx).database
    assert database
    assert database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_the_engine_is_disposed_though_the_resources_do_not_close(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their error is seen, and does not keep the engine."""
    disposed = list[Database]()

    @asynccontextmanager
    async def resources() -> AsyncIterator[Clients]:
        yield Clients("Hello")
        raise OSError("would not close")

    original = Database.dispose

    async def dispose(database: Database) -> None:
        disposed.append(database)
        await original(database)

    monkeypatch.setattr(Database, "dispose", dispose)
    worker = build_worker(
        App(jobs=[greet], resources=resources, forget_ended_jobs=False),
        config,
        burst=True,
        handle_signals=False,
    )
    with pytest.raises(OSError, match="would not close"):
        await drain(worker)
    assert len(disposed) == 1


class Report(Payload[dict[UUID, Decimal]], kind="report"):
    """What to answer: the names of all projects."""


@job
async def report(context: JobContext, _: Report) -> dict[UUID, Decimal]:
    """Answers with what JSON writes as texts; stages, records, and reads as SQLModel does."""
    names = (await context.session.exec(select(Project.name))).all()
    both = (await context.session.exec(select(Project.id, Project.name))).all()
    assert [name for _, name in both] == list(names)
    await context.stage(CreateProject(name="next"), job_id="next")
    await context.record(Change("report", UUID(int=7), "printed", {}, {"names": names}))
    return {UUID(int=7): Decimal("1.50")}


async def test_a_handler_stages_records_and_answers_in_types(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """The staged job has the actor of its parent, the entry its job, the answer its type."""
    enqueued = await client.enqueue(Report(), job_id="report", actor="ada", trace_id="t1")
    both = replace(app, jobs=[report, create_project], schedule=[], forget_ended_jobs=False)
    await drain(build_worker(both, config, burst=True, handle_signals=False))
    assert await enqueued.result(timeout=5) == {UUID(int=7): Decimal("1.50")}
    printed, created = await rows(sessions, AuditLog)
    assert (printed.entity_id, printed.action, printed.job_id) == (
        "00000000-0000-0000-0000-000000000007", "printed", "report",
    )  # fmt: skip
    assert (created.job_id, created.actor, created.trace_id) == ("next", "ada", "t1")
    assert await rows(sessions, OutboxMessage) == []
    assert await client.job("report").result(timeout=5) == {
        "00000000-0000-0000-0000-000000000007": "1.50"
    }
    with pytest.raises(UnexpectedResult, match="what greet answered is not of the type") as caught:
        await client.job("report", Greet).result(timeout=5)
    assert caught.value.kind == "greet"


async def test_a_client_is_opened_by_a_url(config: Config) -> None:
    """Without a settings object."""
    url = config.worker.redis_url.get_secret_value()
    async with JobClient.open(url) as opened:
        assert (await opened.enqueue(Greet(name="x"), job_id="x")).is_new
