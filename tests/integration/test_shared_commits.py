"""Jobs that share a commit leave what they would leave with one commit each; what can't be shared is not."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlmodel import col

from db import projects
from db.inputs import NewProject, ProjectChanges
from db.models import Project
from ledgerq.client import JobClient
from ledgerq.config import Config
from ledgerq.database.engine import Database, Sessions
from ledgerq.execution.outcome import Buried, Completed, Outcome, Retry
from ledgerq.execution.process import process
from ledgerq.execution.registry import Registry
from ledgerq.execution.retry import Policy
from ledgerq.job import JobContext, Kind
from ledgerq.store.tables import AuditLog
from ledgerq.wire.payload import Payload
from tests.support import (
    count,
    delivery,
    done,
    drain,
    history,
    new_project,
    our_worker,
    process_one,
    rows,
)

POLICY = Policy()
Handler = Callable[[JobContext, "Odd"], Awaitable[Any]]
After = Callable[[JobContext, Project], Awaitable[Any]]


class Odd(Payload, kind="odd"):
    n: int = 0


async def run(sessions: Sessions, handle: Handler, jobs: int, *, shared: bool) -> list[Outcome]:
    known = Registry([Kind(Odd, handle, shares_commit=shared)])
    name = "shared" if shared else "own"
    arrived = [delivery(Odd(n=n), f"{name}-{n}") for n in range(jobs)]
    if not shared:
        return [await process_one(each, known, sessions, POLICY) for each in arrived]
    return await process(arrived, known, sessions, POLICY)


async def read_anew(context: JobContext, project: Project) -> None:
    anew = select(Project).where(col(Project.id) == project.id)
    with context.session.no_autoflush:
        await context.session.scalar(anew, execution_options={"populate_existing": True})


async def by_the_connection(context: JobContext, project: Project) -> None:
    connection = await context.session.connection()
    longer = text("UPDATE project SET name = name || '+sql' WHERE id = :id")
    await connection.execute(longer, {"id": project.id})


async def expired(context: JobContext, project: Project) -> None:
    context.session.expire_all()


async def expunged(context: JobContext, project: Project) -> None:
    context.session.expunge_all()


async def undone_by_sql(context: JobContext, project: Project) -> None:
    await context.session.execute(text("SAVEPOINT mine"))
    changes = ProjectChanges(name="undone")
    await projects.update(context.session, context.origin, project.id, changes)
    await context.session.flush()
    await context.session.execute(text("ROLLBACK TO SAVEPOINT mine"))
    context.session.expire_all()


async def undone_by_the_connection(context: JobContext, project: Project) -> None:
    savepoint = await (await context.session.connection()).begin_nested()
    await context.session.execute(text("UPDATE project SET name = 'undone'"))
    await savepoint.rollback()


USES: dict[str, After] = {
    "refresh": lambda context, project: context.session.refresh(project),
    "expire_all": expired,
    "expunge_all": expunged,
    "populate_existing": read_anew,
    "the connection": by_the_connection,
    "a savepoint of SQL": undone_by_sql,
    "a savepoint of the connection": undone_by_the_connection,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
async def test_what_a_handler_does_after_a_change_loses_no_change(
    sessions: Sessions, use: After
) -> None:
    """Rows, audit entries and receipts are those of jobs with a commit each."""
    left = []
    for shared in (False, True):
        project_id = await new_project(sessions, "start")

        async def handle(context: JobContext, odd: Odd, project_id: int = project_id) -> None:
            changes = ProjectChanges(name=f"by {odd.n}")
            project = await projects.update(context.session, context.origin, project_id, changes)
            await use(context, project)

        outcomes = await run(sessions, handle, 3, shared=shared)
        async with sessions() as session:
            name = (await session.get_one(Project, project_id)).name
        entries = [e.after for e in await history(sessions, "project", project_id)]
        left.append((name, entries, [type(each) for each in outcomes]))
    assert left[0] == left[1]
    assert left[0][2] == [Completed] * 3


async def test_what_is_kept_of_a_connection_is_of_no_use_to_a_task_left_behind(
    database: Database,
) -> None:
    """A savepoint, the connection itself: nothing reaches the neighbours, whose effects stand."""
    for kept in ("savepoint", "connection"):
        left: list[asyncio.Task[None]] = []

        async def later(held: Any, kept: str = kept) -> None:
            await asyncio.sleep(0.02)
            with suppress(Exception):
                if kept == "savepoint":
                    await held.rollback()
                else:
                    await held.execute(text("INSERT INTO project (name) VALUES ('late')"))

        async def handle(
            context: JobContext, odd: Odd, kept: str = kept, left: Any = left, later: Any = later
        ) -> None:
            new = NewProject(name=f"{kept} {odd.n}")
            await projects.create(context.session, context.origin, new)
            if odd.n == 0:
                held: Any = await context.session.connection()
                if kept == "savepoint":
                    held = await held.begin_nested()
                left.append(asyncio.create_task(later(held)))
            await asyncio.sleep(0.02)

        outcomes = await run(database.sessions, handle, 4, shared=True)
        await asyncio.gather(*left)
        done_jobs = sum(isinstance(each, Completed) for each in outcomes)
        names = {each.name for each in await rows(database.sessions, Project)}
        assert len({name for name in names if name.startswith(kept)}) == done_jobs >= 3
        assert "late" not in names
        async with database.engine.begin() as connection:
            await connection.execute(text("DELETE FROM ledgerq.processed_job"))
        assert database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def closes(context: JobContext) -> None:
    await (await context.session.connection()).close()


async def invalidates(context: JobContext) -> None:
    await (await context.session.connection()).invalidate()


async def rolls_back_the_root(context: JobContext) -> None:
    root = context.session.get_transaction()
    assert root
    await root.rollback()


async def goes_on_in_autocommit(context: JobContext) -> None:
    connection = await context.session.connection()
    with suppress(Exception):
        await connection.rollback()
    await connection.execution_options(isolation_level="AUTOCOMMIT")
    await connection.execute(text("INSERT INTO project (name) VALUES ('auto')"))


async def resets(context: JobContext) -> None:
    raw = await (await context.session.connection()).get_raw_connection()
    await raw.driver_connection.reset()  # type: ignore[union-attr]


DOORS = {
    "close": closes,
    "invalidate": invalidates,
    "root.rollback": rolls_back_the_root,
    "autocommit": goes_on_in_autocommit,
    "reset": resets,
}


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
async def test_a_handler_that_loses_its_transaction_by_any_door_pays_for_it(
    sessions: Sessions, door: Callable[[JobContext], Awaitable[None]]
) -> None:
    """It is no lost connection; nothing that it writes afterwards stays, and its neighbours are done."""

    async def handle(context: JobContext, odd: Odd) -> None:
        await projects.create(context.session, context.origin, NewProject(name=f"p{odd.n}"))
        if odd.n == 1:
            with suppress(Exception):
                await door(context)
            with suppress(Exception):
                await projects.create(context.session, context.origin, NewProject(name="after"))

    outcomes = await run(sessions, handle, 3, shared=True)
    assert [isinstance(each, Completed) for each in outcomes] == [True, False, True]
    failed = outcomes[1]
    assert isinstance(failed, Buried) or (isinstance(failed, Retry) and failed.counts_as_attempt), (
        failed
    )
    assert {each.name for each in await rows(sessions, Project)} == {"p0", "p2"}
    assert await count(sessions, AuditLog) == 2


async def test_a_second_connection_of_the_handlers_is_its_own(database: Database) -> None:
    """To the same database: its loss is an attempt of the job."""

    async def handle(context: JobContext, odd: Odd) -> None:
        async with database.sessions() as second:
            await second.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    (outcome,) = await run(database.sessions, handle, 1, shared=False)
    assert isinstance(outcome, Retry)
    assert (outcome.counts_as_attempt, outcome.interrupted) == (True, False)


async def test_a_job_that_cancels_its_task_from_outside_is_buried_and_its_neighbours_are_done(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """By a callback of the loop: nobody told the worker's task to stop, so it is an attempt."""

    async def handle(context: JobContext, odd: Odd) -> None:
        if odd.n == 3:
            task = asyncio.current_task()
            assert task
            asyncio.get_running_loop().call_soon(task.cancel)
            await asyncio.sleep(1)

    hurried = config.worker.model_copy(update={"max_attempts": 1})
    await client.enqueue_many([Odd(n=n) for n in range(10)])
    options: dict[str, Any] = {"burst": True, "handle_signals": False, "schedule": []}
    registry = Registry([Kind(Odd, handle, shares_commit=True)])
    await drain(our_worker(Config(hurried, config.database), registry, **options))
    assert await done(sessions) == 9
    async with sessions() as session:
        dead = (await session.execute(text("SELECT reason, error FROM ledgerq.dead_letter"))).all()
    assert len(dead) == 1
    assert "cancelled the task that it runs in" in dead[0].error


async def test_a_limit_of_the_handlers_own_is_no_order_to_stop(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`asyncio.timeout` inside of it: patience is counted from the job's own timeout."""
    monkeypatch.setattr("ledgerq.execution.containment.PATIENCE", 0.3)
    cleaned = []

    async def handle(context: JobContext, odd: Odd) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.15)
            cleaned.append(odd.n)

    known = Registry([Kind(Odd, handle, timeout=0.5)])
    outcome = await process_one(delivery(Odd()), known, sessions, POLICY)
    assert isinstance(outcome, Retry)
    assert cleaned == [0]
