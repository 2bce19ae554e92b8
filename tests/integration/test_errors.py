"""The database's errors as ours: by SQLSTATE and constraint name, the same types on SQLite."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncSession

from db import projects
from db.database import open_database
from db.inputs import NewProject
from db.models import Base, Project, Task
from ledgerq.database.engine import Database, Sessions
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.sqlstate import is_transient, translate
from ledgerq.database.transaction import in_transaction, savepoint, transaction
from ledgerq.errors import (
    AlreadyExists,
    ConstraintError,
    Deadlock,
    Disconnected,
    LockTimeout,
    MissingReference,
    MissingValue,
    RuleBroken,
    SerializationFailure,
    StillReferenced,
    TooLong,
    Unavailable,
)
from ledgerq.tables import ProcessedJob
from tests.support import ORIGIN, count, eventually, new_project, new_task, rows, waiting_for_a_lock

Rows = Callable[[int], Base]


@pytest.mark.parametrize(
    ("row", "error", "fields"),
    [
        (lambda p: Project(key="K", name="x"), AlreadyExists, ("key",)),
        (
            lambda p: ProcessedJob(job_id="K", kind="x"),  # type: ignore[call-arg]
            MissingValue,
            ("payload_hash",),
        ),
        (
            lambda p: Task(title="x", project_id=p, assignee_id=99),
            MissingReference,
            ("assignee_id",),
        ),
        (lambda p: Task(title="x", project_id=99), MissingReference, ("project_id",)),
        (
            lambda p: Task(title="x", project_id=p, parent_task_id=99),
            MissingReference,
            ("parent_task_id",),
        ),
        (lambda p: Project(), MissingValue, ("name",)),  # type: ignore[call-arg]
        (lambda p: Project(name="x" * 201), TooLong, ("name",)),
        (lambda p: Task(title="x" * 501, project_id=p), TooLong, ("title",)),
        (
            lambda p: Task(id=5, title="x", project_id=p, parent_task_id=5),
            RuleBroken,
            ("parent_task_id",),
        ),
    ],
)
async def test_a_constraint_is_a_typed_error_with_its_fields(
    any_database: Database, row: Rows, error: type[ConstraintError], fields: tuple[str, ...]
) -> None:
    """Unique, foreign key, not-null, too long, check."""
    async with transaction(any_database.sessions) as session:
        project = Project(key="K", name="x")
        session.add(project)
    with pytest.raises(error) as refused:
        async with transaction(any_database.sessions) as session:
            session.add(row(project.id))
    # SQLite does not say which foreign key; our own functions look it up
    on_sqlite_unknown = any_database.config.is_sqlite and error is MissingReference
    assert refused.value.fields == (() if on_sqlite_unknown else fields)
    assert "\n" not in str(refused.value)


async def test_another_projects_task_is_no_parent_even_past_our_code(sessions: Sessions) -> None:
    """A composite foreign key holds parent and child in one project."""
    parent = await new_task(sessions)
    other = await new_project(sessions, "other")
    with pytest.raises(MissingReference) as refused:
        async with transaction(sessions) as session:
            session.add(Task(title="x", project_id=other, parent_task_id=parent.id))
    assert refused.value.constraint == "fk_task_parent_task_id_task"


async def test_a_project_with_tasks_stays(any_sessions: Sessions) -> None:
    """Restrict: the error says that something still points at it."""
    task = await new_task(any_sessions)
    with pytest.raises(StillReferenced):
        async with transaction(any_sessions) as session:
            await projects.delete(session, ORIGIN, task.project_id)
    assert await count(any_sessions, Project) == 1


@pytest.mark.parametrize("change", ["UPDATE project SET id = id + 1", "DELETE FROM project"])
async def test_a_row_that_others_point_at_is_named_as_such(sessions: Sessions, change: str) -> None:
    """By a changed key, too: the row that points is there, and so was the one that it points at."""
    await new_task(sessions)
    with pytest.raises(StillReferenced, match="still point at it"):
        async with transaction(sessions) as session:
            await session.execute(text(change))


async def test_a_lock_that_is_not_had_in_time(sessions: Sessions) -> None:
    """lock_timeout: transient."""
    project_id = await new_project(sessions)
    async with transaction(sessions) as holder:
        await holder.get(Project, project_id, with_for_update=True)
        with pytest.raises(LockTimeout) as late:
            async with transaction(sessions) as session:
                await session.execute(text("SET LOCAL lock_timeout = '10ms'"))
                await session.get(Project, project_id, with_for_update=True)
    assert late.value.sqlstate == "55P03"
    assert is_transient(late.value)


async def test_a_statement_that_takes_too_long(sessions: Sessions) -> None:
    """statement_timeout: transient too."""
    with pytest.raises(Unavailable):
        async with transaction(sessions) as session:
            await session.execute(text("SET LOCAL statement_timeout = '10ms'"))
            await session.execute(text("SELECT pg_sleep(5)"))


async def test_a_lost_connection(database: Database) -> None:
    """Whatever asyncpg calls it, it is Disconnected."""
    for pause in (False, True):
        with pytest.raises(Disconnected):
            async with transaction(database.sessions) as session:
                pid = await session.scalar(text("SELECT pg_backend_pid()"))
                async with database.sessions() as other:
                    await other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
                if pause:
                    await asyncio.sleep(0.05)
                await session.execute(text("SELECT 1"))


async def test_a_server_that_is_gone_and_a_pool_that_is_empty_are_transient(
    postgresql_url: URL,
) -> None:
    """Not the driver's errors: ours, which a service answers with 503 and a job with a retry."""
    gone = URL.create("postgresql", username="u", host="127.0.0.1", port=1, database="d")
    async with open_database(DatabaseConfig(url=gone)) as database:
        with pytest.raises(Disconnected):
            await new_project(database.sessions)
    small = DatabaseConfig(url=postgresql_url, pool_size=1, pool_timeout=0.1)
    async with open_database(small) as database, database.engine.connect():
        with pytest.raises(Unavailable):
            await new_project(database.sessions)


async def rename(session: AsyncSession, project_id: int, name: str) -> None:
    (await session.get_one(Project, project_id)).name = name
    await session.flush()


async def test_a_deadlock_is_tried_again_and_both_end_well(sessions: Sessions) -> None:
    """Two transactions that lock in opposite order: one is ended, does it all again, and succeeds."""
    ids = [await new_project(sessions, name) for name in "ab"]
    first_has_it, second_has_it = asyncio.Event(), asyncio.Event()
    tries = 0

    async def one(session: AsyncSession) -> None:
        nonlocal tries
        tries += 1
        await rename(session, ids[0], "one")
        first_has_it.set()
        await second_has_it.wait()
        await rename(session, ids[1], "one")

    async def two(session: AsyncSession) -> None:
        nonlocal tries
        tries += 1
        await first_has_it.wait()
        await rename(session, ids[1], "two")
        second_has_it.set()
        await rename(session, ids[0], "two")

    await asyncio.gather(in_transaction(sessions, one), in_transaction(sessions, two))
    names = {project.name for project in await rows(sessions, Project)}
    assert len(names) == 1
    assert tries >= 3  # where the other is slow, the one that was ended may be so again


@pytest.mark.parametrize("attempts", [1, 4])
async def test_a_serialization_failure_is_tried_again(sessions: Sessions, attempts: int) -> None:
    """The loser of two serializable transactions sees the winner's row in its second try."""
    project_id = await new_project(sessions)
    seen: list[str] = []

    async def work(session: AsyncSession) -> None:
        seen.append((await session.get_one(Project, project_id)).name)
        if len(seen) == 1:
            async with transaction(sessions) as winner:
                await rename(winner, project_id, "winner")
        await rename(session, project_id, "loser")

    again = in_transaction(sessions, work, attempts=attempts, isolation="SERIALIZABLE")
    if attempts == 1:
        with pytest.raises(SerializationFailure):
            await again
        return
    await again
    assert seen == ["Launch", "winner"]


async def test_a_savepoint_fails_alone(any_sessions: Sessions) -> None:
    """What was written before it stays, what it wrote is gone, the transaction goes on."""
    async with transaction(any_sessions) as session:
        await projects.create(session, ORIGIN, NewProject(name="before", key="K"))
        with pytest.raises(AlreadyExists):
            async with savepoint(session):
                await projects.create(session, ORIGIN, NewProject(name="inside"))
                await projects.create(session, ORIGIN, NewProject(name="again", key="K"))
        await projects.create(session, ORIGIN, NewProject(name="after"))
    assert [project.name for project in await rows(any_sessions, Project)] == ["before", "after"]


async def test_a_deadlock_outside_a_retry_has_its_name(sessions: Sessions) -> None:
    """Who opens a transaction without a retry hears Deadlock."""
    ids = [await new_project(sessions, name) for name in "ab"]

    async def other() -> None:
        async with transaction(sessions) as session:
            await rename(session, ids[1], "other")
            blocked.set()
            await rename(session, ids[0], "other")

    blocked = asyncio.Event()
    results: list[Any] = []
    async with sessions() as session:
        await rename(session, ids[0], "mine")
        task = asyncio.create_task(other())
        await blocked.wait()
        await eventually(lambda: waiting_for_a_lock(sessions, "UPDATE"))
        try:
            await rename(session, ids[1], "mine")
        except Exception as error:  # noqa: BLE001 - one of the two is ended, either one
            results.append(error)
        await session.rollback()
        results += await asyncio.gather(task, return_exceptions=True)
    assert [type(translate(e)) for e in results if e is not None] == [Deadlock]
