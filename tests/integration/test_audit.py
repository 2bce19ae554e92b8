"""The audit log: what it says, and that nobody changes it."""

from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from db import tasks
from db.database import build_database
from db.models import TaskStatus
from db.schema import create_db_and_tables
from ledgerq.database.engine import Database, Sessions
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.transaction import transaction
from ledgerq.store.audit import Origin
from ledgerq.store.tables import Action, AuditLog
from tests.support import count, history, new_project, new_task

TAMPERING = {
    "UPDATE": "UPDATE ledgerq.audit_log SET actor = 'somebody else'",
    "UPDATE of nothing": "UPDATE ledgerq.audit_log SET actor = 'x' WHERE id = -1",
    "DELETE": "DELETE FROM ledgerq.audit_log",
    "TRUNCATE": "TRUNCATE ledgerq.audit_log",
    "TRUNCATE CASCADE": "TRUNCATE ledgerq.audit_log, task CASCADE",
    "REPLACE": "INSERT OR REPLACE INTO ledgerq.audit_log SELECT * FROM ledgerq.audit_log",
}
ON = {
    "postgresql": ["UPDATE", "UPDATE of nothing", "DELETE", "TRUNCATE", "TRUNCATE CASCADE"],
    "sqlite": ["UPDATE", "DELETE", "REPLACE"],
}


async def tamper(database: Database, statement: str) -> None:
    if database.config.is_sqlite:
        statement = statement.replace("ledgerq.", "")
    async with transaction(database.sessions) as session:
        await session.execute(text(statement))


async def test_it_is_append_only(any_database: Database) -> None:
    """The database itself refuses every way of changing an entry."""
    await new_project(any_database.sessions)
    for name in ON[any_database.engine.dialect.name]:
        with pytest.raises(DBAPIError, match="append-only"):
            await tamper(any_database, TAMPERING[name])
    assert await count(any_database.sessions, AuditLog) == 1


async def test_a_replication_role_does_not_get_around_it(database: Database) -> None:
    """A superuser's session that switches ordinary triggers off is refused too."""
    await new_project(database.sessions)
    with pytest.raises(DBAPIError, match="append-only"):
        async with transaction(database.sessions) as session:
            await session.execute(text("SET LOCAL session_replication_role = replica"))
            await session.execute(text(TAMPERING["DELETE"]))


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
async def test_tables_made_without_migrations_are_append_only_too(
    kind: str, empty_postgresql_url: URL, tmp_path: Path
) -> None:
    """The models carry the triggers of the migrations."""
    url = f"sqlite:///{tmp_path}/x" if kind == "sqlite" else empty_postgresql_url
    database = build_database(DatabaseConfig(url=url))
    await create_db_and_tables(database)
    await new_project(database.sessions)
    for name in ON[database.engine.dialect.name]:
        with pytest.raises(DBAPIError, match="append-only"):
            await tamper(database, TAMPERING[name])
    await database.dispose()


async def test_an_entry_says_who_what_and_in_which_job(any_sessions: Sessions) -> None:
    """Actor, job, kind, attempt and trace; of the fields only those that changed."""
    task = await new_task(any_sessions, title="x", tags=["a"])
    origin = Origin("user:7", "job-1", "change_task_status", 2, "trace-1")
    async with transaction(any_sessions) as session:
        await tasks.change_status(session, origin, task.id, TaskStatus.IN_PROGRESS)
    created, moved = await history(any_sessions, "task", task.id)
    assert (created.action, created.actor, created.before) == (Action.CREATE, "test", {})
    assert created.after["title"] == "x"
    assert created.after["tags"] == ["a"]
    assert (moved.action, moved.actor) == (Action.UPDATE, "user:7")
    assert (moved.before, moved.after) == ({"status": "todo"}, {"status": "in_progress"})
    assert (moved.job_id, moved.kind, moved.attempt) == ("job-1", "change_task_status", 2)
    assert moved.trace_id == "trace-1"
    assert moved.at >= created.at
