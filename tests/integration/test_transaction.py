"""Together or not at all."""

import asyncio
from contextlib import suppress

import pytest
from sqlalchemy import text

from db import projects
from db.inputs import NewProject
from db.models import Project
from ledgerq.database import transaction as transactions
from ledgerq.database.engine import Database, Sessions
from ledgerq.database.session import LedgerqSession
from ledgerq.database.transaction import transaction
from ledgerq.errors import AlreadyExists, Disconnected, LockTimeout, TooLong
from ledgerq.store.tables import AuditLog
from tests.support import (
    ORIGIN,
    NeverReached,
    cancelled_at,
    count,
    eventually,
    new_project,
    rows,
    waiting_for_a_lock,
)


async def test_what_the_block_adds_is_flushed_and_committed(any_sessions: Sessions) -> None:
    """No flush and no commit of the caller's is needed."""
    async with transaction(any_sessions) as session:
        session.add(Project(name="Launch"))
    assert [project.name for project in await rows(any_sessions, Project)] == ["Launch"]


async def test_an_exception_after_the_flush_leaves_nothing(any_sessions: Sessions) -> None:
    """The row had its id already, and is gone with its audit entry."""
    with pytest.raises(ZeroDivisionError):
        async with transaction(any_sessions) as session:
            project = await projects.create(session, ORIGIN, NewProject(name="Launch"))
            assert project.id
            raise ZeroDivisionError
    assert await count(any_sessions, Project) == 0
    assert await count(any_sessions, AuditLog) == 0


async def test_a_failing_flush_at_the_end_leaves_nothing(any_sessions: Sessions) -> None:
    """The flush is part of the transaction, not of what follows it."""
    with pytest.raises(TooLong, match="name"):
        async with transaction(any_sessions) as session:
            await projects.create(session, ORIGIN, NewProject(name="Launch"))
            session.add(Project(name=""))
    assert await count(any_sessions, Project) == 0
    assert await count(any_sessions, AuditLog) == 0


async def test_a_cancellation_at_any_await_is_all_or_nothing(any_database: Database) -> None:
    """Cancelled before the commit: nothing is there. Cancelled in it: everything is, and no error."""
    sessions = any_database.sessions

    async def create(name: str) -> None:
        async with transaction(sessions) as session:
            await projects.create(session, ORIGIN, NewProject(name=name))

    cancelled = committed = 0
    for step in range(1, 200):
        name = f"cancelled at {step}"
        try:
            await asyncio.create_task(cancelled_at(step, create(name)))
        except NeverReached:
            break
        except asyncio.CancelledError:
            cancelled += 1
            expected = False
        else:
            committed += 1
            expected = True
        found = [project for project in await rows(sessions, Project) if project.name == name]
        entries = [e for e in await rows(sessions, AuditLog) if e.after["name"] == name]
        assert (len(found), len(entries)) == (expected, expected), name
    else:
        pytest.fail("the work never ended")
    assert cancelled >= 3
    assert committed >= 1
    assert any_database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_a_cancellation_in_a_rollback_is_not_lost_to_who_catches_the_error(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rollback is waited for; then the task stops, instead of trying again for ever."""
    begun, may_end, abandon = asyncio.Event(), asyncio.Event(), transactions._abandon
    went_on = False

    async def slowly(session: LedgerqSession) -> None:
        begun.set()
        await may_end.wait()
        await abandon(session)

    async def work() -> None:
        nonlocal went_on
        with suppress(LockTimeout):
            async with transaction(sessions) as session:
                session.add(Project(name="rolled back"))
                raise LockTimeout
        went_on = True

    monkeypatch.setattr(transactions, "_abandon", slowly)
    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    await asyncio.sleep(0)
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not went_on
    assert await count(sessions, Project) == 0


@pytest.mark.parametrize("other_commits", [False, True])
async def test_a_cancelled_commit_reports_what_it_did(
    sessions: Sessions, other_commits: bool
) -> None:
    """A commit that waits for another transaction is cancelled twice, and still says how it ended."""
    async with sessions() as other:
        await other.execute(text("CREATE TABLE once (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)"))
        await other.commit()
        await other.execute(text("INSERT INTO once VALUES (1)"))
        commit = asyncio.create_task(_insert_one(sessions))
        await eventually(lambda: waiting_for_a_lock(sessions, "COMMIT"))
        commit.cancel()
        await asyncio.sleep(0)
        commit.cancel()
        await (other.commit() if other_commits else other.rollback())
    if other_commits:
        with pytest.raises(AlreadyExists):
            await commit
    else:
        assert await commit == "committed"


async def _insert_one(sessions: Sessions) -> str:
    async with transaction(sessions) as session:
        await session.execute(text("INSERT INTO once VALUES (1)"))
    return "committed"


async def test_after_a_lost_connection_the_next_transaction_works(database: Database) -> None:
    """The server ends our session in mid-transaction: a transient error now, a fresh connection next."""
    with pytest.raises(Disconnected):
        async with transaction(database.sessions) as session:
            pid = await session.scalar(text("SELECT pg_backend_pid()"))
            async with database.sessions() as other:
                await other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
            session.add(Project(name="lost"))
    assert await count(database.sessions, Project) == 0
    assert await new_project(database.sessions)
