"""At 100,000 tasks the hot reads use their indexes: a plan that scans the table is a bug."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncSession

from db import tasks, workers
from db.database import open_database
from db.schema import create_db_and_tables
from db.task_reads import TaskFilter, TaskOrder, get, page, tree
from ledgerq.database.engine import Database
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.transaction import transaction
from ledgerq.store import audit, dead_letters, inbox
from tests.support import ORIGIN

LONG_AGO = datetime.now(UTC) - timedelta(days=60)

FILL = (
    "INSERT INTO project (name) SELECT 'P' || n FROM generate_series(1, 1000) n",
    "INSERT INTO worker (name) SELECT 'W' || n FROM generate_series(1, 1000) n",
    """
    INSERT INTO task
        (title, project_id, assignee_id, created_by_id, parent_task_id, tags, due_at, deleted_at)
    SELECT 'Task ' || n, 1 + n % 1000, 1 + n % 1000, 1 + n % 1000,
           CASE WHEN n > 1000 AND n % 10 = 7 THEN n - 1000 END,
           jsonb_build_array('tag' || n % 1000), now() + n * interval '1 minute',
           CASE WHEN n % 100 = 0 THEN now() - n * interval '1 minute' END
    FROM generate_series(1, 100000) n
    """,
    """
    INSERT INTO ledgerq.audit_log (entity_type, entity_id, action, actor, before, after, job_id)
    SELECT 'task', n::text, 'create', 'x', '{}', '{}', 'job' || n FROM generate_series(1, 100000) n
    """,
    "INSERT INTO ledgerq.processed_job (job_id, kind, payload_hash) SELECT 'job' || n, 'x', '' FROM generate_series(1, 10000) n",
    """
    INSERT INTO ledgerq.dead_letter (job_id, reason, error, attempt)
    SELECT 'job' || n, 'x', 'x', 1 FROM generate_series(1, 10000) n
    """,
    # So that ANALYZE reads every row: a sample takes "tag7" for ten times as frequent now and then.
    "ALTER TABLE task ALTER tags SET STATISTICS 1000",
    "ANALYZE",
)


@pytest.fixture
async def full(postgresql_url: URL) -> AsyncIterator[Database]:
    """A database with 100,000 tasks and as many audit entries."""
    config = DatabaseConfig(url=postgresql_url, statement_timeout=120)
    async with open_database(config) as database:
        for statement in FILL:
            async with transaction(database.sessions) as session:
                await session.execute(text(statement))
        yield database


async def plan(database: Database, read: Callable[[AsyncSession], Awaitable[Any]]) -> str:
    """How the server answers what the read really sends, statement by statement."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append((statement, parameters))

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    try:
        async with database.sessions() as session:
            await read(session)
    finally:
        event.remove(database.engine.sync_engine, "before_cursor_execute", note)
    explain = "EXPLAIN QUERY PLAN" if database.config.is_sqlite else "EXPLAIN"
    async with database.engine.connect() as connection:
        return "\n".join(
            [
                str(line[-1])
                for statement, parameters in sent
                if not statement.startswith("INSERT")
                for line in await connection.exec_driver_sql(f"{explain} {statement}", parameters)
            ]
        )


CURSOR = "WyJuZXdlc3QiLDUwMDAwXQ"  # ["newest", 50000]
DUE = "WyJkdWUiLCIyMDI3LTAxLTAxVDAwOjAwOjAwWiIsNTAwMDBd"  # ["due", "2027-01-01T00:00:00Z", 50000]
SOON = datetime.now(UTC) + timedelta(minutes=100)
HOT: tuple[tuple[str, Callable[[AsyncSession], Awaitable[Any]]], ...] = (
    ("uq_task_project_id_id", lambda s: page(s, TaskFilter(project_id=7))),
    (
        "ix_task_assignee_id_id",
        lambda s: page(s, TaskFilter(assignee_id=7), order=TaskOrder.OLDEST),
    ),
    ("ix_task_assignee_id_id", lambda s: workers.delete(s, ORIGIN, 7)),
    ("ix_task_created_by_id", lambda s: workers.delete(s, ORIGIN, 7)),
    ("ix_task_due_at_id", lambda s: page(s, order=TaskOrder.DUE)),
    ("ix_task_due_at_id", lambda s: page(s, order=TaskOrder.DUE, after=DUE)),
    ("ix_task_due_at_id", lambda s: page(s, TaskFilter(due_before=SOON), order=TaskOrder.DUE)),
    ("ix_task_tags", lambda s: page(s, TaskFilter(tags=["tag7"]))),
    ("ix_task_tags", lambda s: page(s, TaskFilter(tags=["tag7"], include_deleted=True))),
    ("pk_task", lambda s: page(s, after=CURSOR)),
    ("ix_task_parent_task_id", lambda s: get(s, 7)),
    ("ix_task_parent_task_id", lambda s: tree(s, 7)),
    ("ix_task_parent_task_id", lambda s: page(s, TaskFilter(parent_task_id=7))),
    ("ix_task_parent_task_id", lambda s: tasks.delete(s, ORIGIN, 7, now=SOON)),
    ("ix_task_parent_task_id", lambda s: tasks.purge(s, ORIGIN, deleted_before=LONG_AGO, limit=10)),
    ("ix_task_deleted_at", lambda s: tasks.purge(s, ORIGIN, deleted_before=LONG_AGO, limit=10)),
    ("ix_audit_log_entity", lambda s: audit.history(s, "task", 7)),
    ("ix_audit_log_job_id", lambda s: audit.of_job(s, "job7")),
    ("pk_processed_job", lambda s: inbox.find(s, "job7")),
    ("uq_dead_letter_job_id", lambda s: dead_letters.find(s, "job7")),
)
# what a foreign key sends when a row is deleted to which others refer; planned before the id is known
OF_FOREIGN_KEYS = {
    "ix_task_assignee_id_id": "UPDATE ONLY task SET assignee_id = NULL WHERE $1 = assignee_id",
    "ix_task_created_by_id": "UPDATE ONLY task SET created_by_id = NULL WHERE $1 = created_by_id",
    "ix_task_parent_task_id": "SELECT 1 FROM ONLY task WHERE $1 = parent_task_id AND $2 = project_id",
}


async def test_old_jobs_are_removed_by_their_place(full: Database) -> None:
    """By their ids, the whole table would be read again for each part of them."""
    shown = await plan(full, lambda s: inbox.prune(s, ended_before=LONG_AGO, limit=100))
    assert "Tid Scan on processed_job" in shown, shown


async def test_the_hot_reads_use_their_indexes(full: Database) -> None:
    """Lists by project, assignee, due date and tag, keyset pages, trees, deletes, purge, history, inbox."""
    for index, read in HOT:
        shown = await plan(full, read)
        assert index in shown, f"{index}\n{shown}"
        assert "Seq Scan on task" not in shown, shown
        assert "Seq Scan on audit_log" not in shown, shown
    lean = "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'task'::regclass AND indpred IS NOT NULL"
    async with full.engine.connect() as connection:
        assert set(await connection.scalars(text(lean))) == {
            index for index, _ in HOT if index.startswith("ix_task")
        }
        await connection.execute(text("SET plan_cache_mode = force_generic_plan"))
        for index, statement in OF_FOREIGN_KEYS.items():
            await connection.exec_driver_sql(f"PREPARE of_{index}(bigint, bigint) AS {statement}")
            lines = await connection.exec_driver_sql(f"EXPLAIN EXECUTE of_{index}(7, 7)")
            assert any(index in line for (line,) in lines), index


async def test_on_sqlite_too_the_reads_use_the_indexes_without_nulls(tmp_path: Path) -> None:
    """All but the one on tags: there SQLite looks into each list."""
    async with open_database(DatabaseConfig(url=f"sqlite:///{tmp_path}/x.sqlite3")) as database:
        await create_db_and_tables(database)
        async with transaction(database.sessions) as session:
            for statement in (
                "INSERT INTO project (id, name) VALUES (7, 'P')",
                "INSERT INTO worker (id, name) VALUES (7, 'W')",
                "INSERT INTO task (id, title, project_id) VALUES (7, 'T', 7)",
            ):
                await session.execute(text(statement))
        for index, read in HOT:
            if index.startswith("ix_task") and index != "ix_task_tags":
                shown = await plan(database, read)
                assert index in shown, f"{index}\n{shown}"
