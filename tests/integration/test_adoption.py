"""A database of version 0.1 goes on: its tables move into ledgerq's own schema, and all that they hold is there.

The dumps in `tests/data` were made by the code of 0.1: jobs that were done, buried, discarded, cancelled and staged.
"""

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.engine import URL

from db.database import open_database
from db.models import Task
from db.schema import migrate
from ledgerq.database.engine import Database
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.transaction import transaction
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.outcome import Buried, Completed, Duplicate
from ledgerq.execution.process import process
from ledgerq.execution.replays import replay
from ledgerq.execution.retry import Policy
from ledgerq.store import dead_letters, inbox, outbox
from ledgerq.store.schema import require_current
from ledgerq.store.tables import AuditLog, DeadLetter, JobState, OutboxMessage, UniqueKey
from ledgerq.wire.envelope import Envelope, encode
from tests.conftest import plain
from tests.support import own, rows
from worker.app import app

DATA = Path(__file__).resolve().parents[1] / "data"
WRITER = own("old_writer")


@pytest.fixture(params=["postgresql", "sqlite"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DatabaseConfig]:
    """A database as version 0.1 left it."""
    if request.param == "sqlite":
        path = tmp_path / "old.sqlite3"
        with sqlite3.connect(path) as connection:
            connection.executescript((DATA / "version_0_1.sqlite.sql").read_text())
        connection.close()
        yield DatabaseConfig(url=f"sqlite:///{path}")
        return
    url: URL = request.getfixturevalue("empty_postgresql_url")
    dump = (DATA / "version_0_1.postgresql.sql").read_text().replace("{writer}", WRITER)
    asyncio.run(_run(url, f"DROP ROLE IF EXISTS {WRITER}; CREATE ROLE {WRITER}", dump))
    yield DatabaseConfig(url=url)
    asyncio.run(_run(url, f"DROP OWNED BY {WRITER}", f"DROP ROLE {WRITER}"))


async def _run(url: URL, *statements: str) -> None:
    connection = await asyncpg.connect(plain(url))
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def deliver(database: Database, job_id: str, kind: str, **payload: object) -> object:
    body = encode(Envelope(kind, payload, actor="ada", staged=True))
    [outcome] = await process(
        [Delivery(job_id, 1, body)], app.registry(), database.sessions, Policy()
    )
    return outcome


async def test_all_that_0_1_kept_is_there_and_goes_on(old: DatabaseConfig) -> None:
    """Receipts, staged jobs, letters, unique keys, entries: each does what it did before."""
    await asyncio.to_thread(migrate, old)
    await asyncio.to_thread(migrate, old)  # once more changes nothing
    async with open_database(old) as database:
        await require_current(database)
        async with database.sessions() as session:
            assert await inbox.count(session) == {
                JobState.DONE: 5, JobState.DEAD: 2, JobState.CANCELLED: 1,
            }  # fmt: skip
        staged = await rows(database.sessions, OutboxMessage)
        assert [(each.job_id, each.ordering_key, each.queue) for each in staged] == [
            ("waits", "k", None), ("later", None, None),
        ]  # fmt: skip
        assert [each.job_id for each in await rows(database.sessions, UniqueKey)] == ["later"]
        entries = await rows(database.sessions, AuditLog)
        assert [(e.entity_type, e.entity_id, e.action) for e in entries] == [
            ("project", "1", "create"),
            ("worker", "1", "create"),
            ("task", "1", "create"),
            ("task", "2", "create"),
            ("task", "2", "delete"),
            ("dead_letter", "2", "discard"),
            ("job", "0", "cancel"),
        ]
        assert await deliver(database, "project", "create_project", name="Launch", key="LCH") == (
            Duplicate(JobState.DONE, 1)
        )
        new = await deliver(database, "waits", "create_task", title="Waits", project_id=1)
        assert isinstance(new, Completed)
        assert [each.job_id for each in await rows(database.sessions, OutboxMessage)] == ["later"]


async def test_a_letter_of_0_1_is_replayed(old: DatabaseConfig) -> None:
    """By the code of today, with another payload."""
    await asyncio.to_thread(migrate, old)
    async with open_database(old) as database:
        [letter] = await rows(database.sessions, DeadLetter)
        assert (letter.job_id, letter.kind, letter.actor) == ("dead", "create_task", "ada")
        async with transaction(database.sessions) as session:
            payload = {"title": "Somewhere", "project_id": 1}
            await replay(session, ["dead"], actor="eve", reason="mended", payload=payload)
        assert isinstance(await deliver(database, "dead", "create_task", **payload), Completed)
        async with database.sessions() as session:
            assert await dead_letters.count(session) == 0
            assert await outbox.find_many(session, ["dead"]) == []
        assert "Somewhere" in {task.title for task in await rows(database.sessions, Task)}
        failed = await deliver(database, "new", "create_task", title="x", project_id=99)
        assert isinstance(failed, Buried)


async def test_the_audit_log_of_0_1_is_append_only_still(old: DatabaseConfig) -> None:
    """In its new place."""
    await asyncio.to_thread(migrate, old)
    async with open_database(old) as database:
        for statement in ("UPDATE {0} SET actor = 'x'", "DELETE FROM {0}"):
            table = "audit_log" if old.is_sqlite else "ledgerq.audit_log"
            with pytest.raises(Exception, match="append-only"):
                async with database.engine.begin() as connection:
                    await connection.exec_driver_sql(statement.format(table))


@pytest.mark.parametrize("old", ["postgresql"], indirect=True)
async def test_nothing_of_ledgerq_stays_in_the_services_schema(old: DatabaseConfig) -> None:
    """But the way in for producers that call `enqueue_job` as before; their rights went along."""
    await asyncio.to_thread(migrate, old)
    connection = await asyncpg.connect(old.target.url.set(drivername="postgresql").render_as_string(hide_password=False))  # fmt: skip
    try:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")  # fmt: skip
        assert {each["tablename"] for each in tables} == {"alembic_version", "project", "task", "worker"}  # fmt: skip
        functions = await connection.fetch(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        )
        assert {each["proname"] for each in functions} == {"enqueue_job", "touch_updated_at"}
        await connection.execute(f"SET ROLE {WRITER}")
        call = "enqueue_job('create_project', '{\"name\": \"From outside\"}')"
        for each in (f"public.{call}", f"ledgerq.{call}"):
            assert await connection.fetchval(f"SELECT {each}")
        assert await connection.fetchval("SELECT count(*) FROM ledgerq.outbox_message") == 4
        assert await connection.fetchval("SELECT count(*) FROM ledgerq.audit_log") == 7
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetchval("SELECT count(*) FROM ledgerq.processed_job")
    finally:
        await connection.close()
