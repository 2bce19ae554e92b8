"""What a handler may do to the flow: whatever it does, its job is done once, or not at all."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import structlog
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from db import projects
from db.inputs import NewProject, ProjectChanges
from db.models import Project
from ledgerq.database.engine import Database, Sessions
from ledgerq.errors import JobEnded, NotAllowedInJob, SessionShared
from ledgerq.execution.outcome import Buried, Completed, Duplicate, Outcome, Retry
from ledgerq.execution.process import process
from ledgerq.execution.registry import Registry
from ledgerq.execution.retry import Policy
from ledgerq.job import JobContext, Kind
from ledgerq.store.tables import AuditLog, DeadLetter, ProcessedJob
from ledgerq.wire.payload import Payload
from tests.support import count, delivery, letter, new_project, process_one, rows

POLICY = Policy()
Handler = Callable[[JobContext, "Odd"], Awaitable[Any]]


class Odd(Payload, kind="odd"):
    n: int = 0


def registry(handle: Handler, **options: Any) -> Registry:
    return Registry([Kind(Odd, handle, **options)])


async def one(sessions: Sessions, handle: Handler, *, attempt: int = 1, n: int = 0) -> Outcome:
    """Deliver one job to a handler."""
    return await process_one(
        delivery(Odd(n=n), f"j{n}", attempt), registry(handle), sessions, POLICY
    )


async def batch(sessions: Sessions, handle: Handler, jobs: int = 4) -> list[Outcome]:
    """Deliver jobs that share a transaction."""
    known = registry(handle, shares_commit=True)
    arrived = [delivery(Odd(n=n), f"j{n}") for n in range(jobs)]
    return await process(arrived, known, sessions, POLICY)


async def add_project(context: JobContext, name: str = "x") -> int:
    new = NewProject(name=name)
    return (await projects.create(context.session, context.origin, new)).id


async def driver_of(session: AsyncSession) -> Any:
    connection = await session.connection()
    return (await connection.get_raw_connection()).driver_connection


async def raw(session: AsyncSession, statement: str) -> None:
    await (await driver_of(session)).execute(statement)


async def connection_of(session: AsyncSession) -> Any:
    return await session.connection()


ENDINGS: dict[str, Callable[[AsyncSession], Awaitable[Any]]] = {
    "session.commit": lambda s: s.commit(),
    "session.rollback": lambda s: s.rollback(),
    "session.close": lambda s: s.close(),
    "session.aclose": lambda s: s.aclose(),
    "session.invalidate": lambda s: s.invalidate(),
    "session.reset": lambda s: s.reset(),
    "session.begin": lambda s: s.begin().__aenter__(),
    "async with session": lambda s: s.__aenter__(),
    "sync commit": lambda s: s.run_sync(lambda sync: sync.commit()),
    "sync rollback": lambda s: s.run_sync(lambda sync: sync.rollback()),
    "sync close": lambda s: s.run_sync(lambda sync: sync.close()),
    "COMMIT": lambda s: s.execute(text("COMMIT")),
    "ROLLBACK": lambda s: s.execute(text("/* all */ rollback")),
    "END": lambda s: s.execute(text("-- now\n END")),
}
ON_POSTGRESQL: dict[str, Callable[[AsyncSession], Awaitable[Any]]] = {
    "PREPARE TRANSACTION": lambda s: s.execute(text("PREPARE TRANSACTION 'mine'")),
    "driver COMMIT": lambda s: raw(s, "COMMIT"),
    "driver SELECT; COMMIT": lambda s: raw(s, "SELECT 1; COMMIT; BEGIN"),
    "driver ROLLBACK": lambda s: raw(s, "ROLLBACK"),
}


async def connection_commit(session: AsyncSession) -> None:
    await (await session.connection()).commit()


async def connection_rollback(session: AsyncSession) -> None:
    await (await session.connection()).rollback()


async def root_commit(session: AsyncSession) -> None:
    root = session.get_transaction()
    assert root
    await root.commit()


ENDINGS |= {
    "connection.commit": connection_commit,
    "connection.rollback": connection_rollback,
    "root.commit": root_commit,
}


async def require_done_once_or_not_at_all(
    sessions: Sessions, end: Callable[[AsyncSession], Awaitable[Any]], *, swallowed: bool
) -> None:
    async def handle(context: JobContext, odd: Odd) -> None:
        await add_project(context, "before")
        try:
            await end(context.session)
        except Exception:
            if not swallowed:
                raise
        await add_project(context, "after")
        if context.origin.attempt == 1:
            raise ValueError("after it")

    outcomes = [await one(sessions, handle, attempt=attempt) for attempt in range(1, 7)]
    made, ended = await count(sessions, Project), await rows(sessions, ProcessedJob)
    states = {row.state.value for row in ended}
    assert made == (2 if states == {"done"} else 0), outcomes
    assert made == await count(sessions, AuditLog), outcomes
    assert (await count(sessions, DeadLetter) == 1) is (states == {"dead"}), outcomes
    assert ended, outcomes


@pytest.mark.parametrize("swallowed", [False, True])
@pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)
async def test_a_handler_cannot_end_its_transaction(
    any_sessions: Sessions, end: Callable[[AsyncSession], Awaitable[Any]], swallowed: bool
) -> None:
    """By whatever way it tries, and whether it lets the refusal pass or swallows it: all or nothing, once."""
    await require_done_once_or_not_at_all(any_sessions, end, swallowed=swallowed)


@pytest.mark.parametrize("swallowed", [False, True])
@pytest.mark.parametrize("end", ON_POSTGRESQL.values(), ids=ON_POSTGRESQL)
async def test_a_handler_cannot_end_its_transaction_by_the_driver(
    sessions: Sessions, end: Callable[[AsyncSession], Awaitable[Any]], swallowed: bool
) -> None:
    """Nor past SQLAlchemy."""
    await require_done_once_or_not_at_all(sessions, end, swallowed=swallowed)


async def test_the_refusal_says_what_to_do(sessions: Sessions) -> None:
    """It names the call and the savepoint; the job is buried at once, for trying again cannot help."""

    async def handle(context: JobContext, odd: Odd) -> None:
        await context.session.rollback()

    outcome = await one(sessions, handle)
    assert isinstance(outcome, Buried)
    assert isinstance(outcome.error, NotAllowedInJob)
    kept = await letter(sessions, "j0")
    assert kept.reason == "not_allowed_in_job"
    assert "session.rollback() is not allowed" in kept.error
    assert "begin_nested()" in kept.error


async def test_savepoints_stay(any_sessions: Sessions) -> None:
    """A part may fail alone, in a job of its own and in one of a batch; its audit entries go with it."""

    async def handle(context: JobContext, odd: Odd) -> int:
        project_id = await add_project(context)
        for name in ("undone", "kept"):
            try:
                async with context.session.begin_nested():
                    changes = ProjectChanges(name=name)
                    await projects.update(context.session, context.origin, project_id, changes)
                    if name == "undone":
                        raise KeyError(name)  # noqa: TRY301 - out of the savepoint
            except KeyError:
                pass
        return project_id

    assert isinstance(await one(any_sessions, handle, n=9), Completed)
    assert all(isinstance(each, Completed) for each in await batch(any_sessions, handle))
    assert {each.name for each in await rows(any_sessions, Project)} == {"kept"}
    entries = await rows(any_sessions, AuditLog)
    assert [e.after["name"] for e in entries if e.action == "update"] == ["kept"] * 5


async def test_an_error_of_the_database_that_is_swallowed_commits_nothing(
    sessions: Sessions,
) -> None:
    """PostgreSQL has ended the transaction; its COMMIT would roll back without a word."""

    async def by_sql(context: JobContext, odd: Odd) -> None:
        with suppress(IntegrityError):
            await context.session.execute(text("INSERT INTO project (id) VALUES (1)"))

    async def by_flush(context: JobContext, odd: Odd) -> None:
        context.session.add(Project(name=""))
        with suppress(IntegrityError):
            await context.session.flush()

    for n, handle in enumerate((by_sql, by_flush)):
        assert not isinstance(await one(sessions, handle, n=n), Completed), handle
    assert {row.state.value for row in await rows(sessions, ProcessedJob)} <= {"dead"}


async def test_one_job_of_a_batch_cannot_undo_the_others(any_sessions: Sessions) -> None:
    """The one that ends the transaction is buried; its neighbours are done, each with its receipt."""
    for n, end in enumerate(ENDINGS.values()):

        async def handle(
            context: JobContext, odd: Odd, end: Callable[[AsyncSession], Awaitable[Any]] = end
        ) -> None:
            if odd.n == 2:
                await end(context.session)
            await add_project(context, f"p{odd.n}")

        outcomes = await batch(any_sessions, handle)
        done = [isinstance(each, Completed) for each in outcomes]
        assert done == [True, True, False, True], outcomes
        assert await count(any_sessions, Project) == 3 * (n + 1)
        async with any_sessions() as session:
            for table in (ProcessedJob, DeadLetter):
                await session.execute(delete(table))
            await session.commit()


# --- what is left behind ------------------------------------------------------------------------------


async def test_the_session_of_a_job_that_has_ended_is_an_error(database: Database) -> None:
    """For a task left behind, a closure, a generator; in a batch too. No connection is lost to it."""
    kept: list[AsyncSession] = []
    errors: list[BaseException] = []
    go_on = asyncio.Event()
    background: list[asyncio.Task[None]] = []

    async def later(session: AsyncSession) -> None:
        await go_on.wait()
        try:
            await session.execute(text("SELECT 1"))
        except BaseException as error:  # noqa: BLE001 - it is looked at
            errors.append(error)

    async def handle(context: JobContext, odd: Odd) -> None:
        kept.append(context.session)
        background.append(asyncio.create_task(later(context.session)))

    assert isinstance(await one(database.sessions, handle, n=9), Completed)
    await batch(database.sessions, handle)
    go_on.set()
    await asyncio.gather(*background)
    assert [type(each) for each in errors] == [JobEnded] * 5
    for session in kept:
        for use in (
            lambda s: s.add(Project(name="late")),
            lambda s: s.new,
            lambda s: s.info,
            list,
            lambda s: s.begin_nested(),
            lambda s: s.commit(),
        ):
            with pytest.raises(JobEnded):
                await_ = use(session)
                if asyncio.iscoroutine(await_) or hasattr(await_, "__await__"):
                    await await_
    assert database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert await count(database.sessions, Project) == 0


async def test_a_task_in_the_middle_of_a_statement_fails_its_job(database: Database) -> None:
    """Its job is rolled back; the connection is closed, and none is lost."""
    started = asyncio.Event()
    left: list[asyncio.Task[Any]] = []

    async def slow(session: AsyncSession) -> None:
        started.set()
        await session.execute(text("SELECT pg_sleep(30)"))

    async def handle(context: JobContext, odd: Odd) -> None:
        await add_project(context)
        left.append(asyncio.create_task(slow(context.session)))
        await started.wait()
        await asyncio.sleep(0.05)

    outcome = await one(database.sessions, handle)
    assert isinstance(outcome, Retry)
    assert isinstance(outcome.error, SessionShared)
    assert await count(database.sessions, Project) == 0
    ended = await asyncio.wait_for(asyncio.gather(*left, return_exceptions=True), 5)
    assert isinstance(ended[0], BaseException)
    assert database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_a_cursor_that_is_kept_does_not_reach_the_next_job(database: Database) -> None:
    """A generator over a stream, the driver's connection: the next user has a connection of its own."""
    kept: list[Any] = []

    async def handle(context: JobContext, odd: Odd) -> None:
        kept.append(await context.session.stream(text("SELECT generate_series(1, 1000)")))
        kept.append(await driver_of(context.session))

    assert isinstance(await one(database.sessions, handle), Completed)
    stream, driver = kept
    async with database.sessions() as session:
        await session.execute(text("SELECT 1"))
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever it is, it is not data
            [row async for row in stream]
        with pytest.raises(Exception, match="closed"):
            await driver.fetch("SELECT 1")
        assert await session.scalar(text("SELECT 2")) == 2
    assert database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


# --- what reaches the next job ------------------------------------------------------------------------

TENANT: contextvars.ContextVar[int | None] = contextvars.ContextVar("tenant", default=None)


async def test_a_context_variable_does_not_reach_the_next_job(sessions: Sessions) -> None:
    """Each job has a clean context, with its id, kind, attempt and trace bound for its log lines."""
    seen = []

    async def handle(context: JobContext, odd: Odd) -> None:
        seen.append((TENANT.get(), dict(structlog.contextvars.get_contextvars())))
        TENANT.set(odd.n)
        structlog.contextvars.bind_contextvars(tenant=odd.n)

    await batch(sessions, handle, 3)
    for n in (7, 8):
        await one(sessions, handle, n=n)
    assert [tenant for tenant, _ in seen] == [None] * 5
    assert [bound for _, bound in seen] == [
        {"job_id": f"j{n}", "kind": "odd", "attempt": 1} for n in (0, 1, 2, 7, 8)
    ]
    assert TENANT.get() is None


LEFT: dict[str, str] = {
    "SET LOCAL": "SET LOCAL app.tenant = 'a'",
    "set_config": "SELECT set_config('app.tenant', 'a', true)",
    "set_config, for the session": "SELECT set_config('app.tenant', 'a', false)",
    "SET": "SET app.tenant = 'a'",
    "a function": "SELECT be_tenant()",
}


@pytest.mark.parametrize("statement", LEFT.values(), ids=LEFT)
async def test_a_setting_does_not_reach_the_next_job(database: Database, statement: str) -> None:
    """Row level security rests on it. In a batch, and in the next transaction of the same connection."""
    async with database.engine.begin() as connection:
        await connection.execute(
            text(
                "CREATE OR REPLACE FUNCTION be_tenant() RETURNS text LANGUAGE sql "
                "AS $$ SELECT set_config('app.tenant', 'a', true) $$"
            )
        )
    seen = []

    async def handle(context: JobContext, odd: Odd) -> None:
        asked = text("SELECT current_setting('app.tenant', true)")
        seen.append(await context.session.scalar(asked) or None)
        await context.session.execute(text(statement))

    outcomes = await batch(database.sessions, handle)
    assert all(isinstance(each, Completed) for each in outcomes)
    await one(database.sessions, handle, n=9)
    assert set(seen) == {None}


async def test_an_advisory_lock_does_not_reach_the_next_job(database: Database) -> None:
    """Whether it is the transaction's or the session's: it goes with the job that took it."""
    held = text(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )

    async def handle(context: JobContext, odd: Odd) -> bool | None:
        for lock in ("pg_try_advisory_xact_lock(1)", "pg_try_advisory_lock(2)"):
            await context.session.execute(text(f"SELECT {lock}"))
        return bool(await context.session.scalar(held) == 2)

    outcomes = await batch(database.sessions, handle)
    assert [o.result for o in outcomes if isinstance(o, Completed)] == [True] * 4
    async with database.sessions() as session:
        assert await session.scalar(held) == 0


async def test_what_a_kind_leaves_costs_it_the_shared_commit_only_once(sessions: Sessions) -> None:
    """From then on its jobs have their own, and the batch is not tried again."""
    calls = 0

    async def handle(context: JobContext, odd: Odd) -> None:
        nonlocal calls
        calls += 1
        await context.session.execute(text("SET LOCAL app.tenant = 'a'"))

    known = registry(handle, shares_commit=True)
    for start in (0, 10):
        arrived = [delivery(Odd(n=n), f"j{n}") for n in range(start, start + 5)]
        await process(arrived, known, sessions, POLICY)
    assert calls == 1 + 5 + 5
    assert known.batchable_kinds == ()


async def test_what_a_session_holds_does_not_reach_the_next_job(sessions: Sessions) -> None:
    """`info`, attributes, loaded objects, autoflush, an open savepoint: each job finds a new session."""
    project_id = await new_project(sessions, "old")
    seen: list[Any] = []

    async def handle(context: JobContext, odd: Odd) -> None:
        session = context.session
        project = await session.get_one(Project, project_id)
        seen.append((dict(session.info), session.autoflush, session.in_nested_transaction()))
        seen.append((hasattr(session, "tenant"), hasattr(project, "_seen"), project.name))
        session.info.update(tenant=odd.n)
        session.autoflush = False
        session.tenant = odd.n  # type: ignore[attr-defined]
        object.__setattr__(project, "_seen", True)
        await session.begin_nested()
        async with sessions() as elsewhere:  # somebody else changes the row meanwhile
            changed = update(Project).where(col(Project.id) == project_id)
            await elsewhere.execute(changed.values(name=f"by {odd.n}"))
            await elsewhere.commit()

    outcomes = await batch(sessions, handle, 3)
    assert all(isinstance(each, Completed) for each in outcomes)
    assert seen[::2] == [({}, True, False)] * 3
    assert seen[1::2] == [(False, False, name) for name in ("old", "by 0", "by 1")]


async def test_changes_that_wait_are_written_and_read_by_the_next_job(
    any_sessions: Sessions,
) -> None:
    """A row that two jobs of a batch change has both changes; one that a job only adds to the session is stored."""
    project_id = await new_project(any_sessions, "start")

    async def handle(context: JobContext, odd: Odd) -> str:
        project = await projects.get(context.session, project_id)
        changes = ProjectChanges(name=f"{project.name}+{odd.n}")
        await projects.update(context.session, context.origin, project_id, changes)
        context.session.add(Project(name=f"added {odd.n}"))
        return changes.name

    outcomes = await batch(any_sessions, handle, 3)
    assert [o.result for o in outcomes if isinstance(o, Completed)] == [
        "start+0", "start+0+1", "start+0+1+2",
    ]  # fmt: skip
    names = [each.name for each in await rows(any_sessions, Project)]
    assert sorted(names) == ["added 0", "added 1", "added 2", "start+0+1+2"]


async def test_a_second_delivery_finds_what_the_first_one_left(sessions: Sessions) -> None:
    """The fence changes nothing for a handler that keeps to the rules."""

    async def handle(context: JobContext, odd: Odd) -> int:
        project_id = await add_project(context)
        async with context.session.begin_nested():
            found = select(func.count()).select_from(Project)
            assert await context.session.scalar(found) == 1
        return project_id

    first, second = [await one(sessions, handle) for _ in range(2)]
    assert isinstance(first, Completed)
    assert isinstance(second, Duplicate)
    assert second.result == first.result
