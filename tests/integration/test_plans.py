"""At 100,000 tasks the hot reads use their indexes: a plan that scans the table is a bug."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncSession

from db.database import open_database
from db.task_reads import TaskFilter, TaskOrder, page, tree
from db.tasks import purge
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
    INSERT INTO task (title, project_id, assignee_id, parent_task_id, tags, due_at, deleted_at)
    SELECT 'Task ' || n, 1 + n % 1000, 1 + n % 1000, NULL,
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
    """How the server answers what the read really sends."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append((statement, parameters))

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    try:
        async with database.sessions() as session:
            await read(session)
    finally:
        event.remove(database.engine.sync_engine, "before_cursor_execute", note)
    statement, parameters = sent[0]
    async with database.engine.connect() as connection:
        lines = await connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)
        return "\n".join(line for (line,) in lines)


CURSOR = "WyJuZXdlc3QiLDUwMDAwXQ"  # ["newest", 50000]
HOT: dict[str, Callable[[AsyncSession], Awaitable[Any]]] = {
    "uq_task_project_id_id": lambda s: page(s, TaskFilter(project_id=7)),
    "ix_task_assignee_id_id": lambda s: page(s, TaskFilter(assignee_id=7), order=TaskOrder.OLDEST),
    "ix_task_due_at_id": lambda s: page(s, order=TaskOrder.DUE),
    "ix_task_tags": lambda s: page(s, TaskFilter(tags=["tag7"])),
    "pk_task": lambda s: page(s, after=CURSOR),
    "ix_task_parent_task_id": lambda s: tree(s, 7),
    "ix_task_deleted_at": lambda s: purge(s, ORIGIN, deleted_before=LONG_AGO, limit=100),
    "ix_audit_log_entity": lambda s: audit.history(s, "task", 7),
    "pk_processed_job": lambda s: inbox.find(s, "job7"),
    "uq_dead_letter_job_id": lambda s: dead_letters.find(s, "job7"),
}


async def test_old_jobs_are_removed_by_their_place(full: Database) -> None:
    """By their ids, the whole table would be read again for each part of them."""
    shown = await plan(full, lambda s: inbox.prune(s, ended_before=LONG_AGO, limit=100))
    assert "Tid Scan on processed_job" in shown, shown


async def test_the_hot_reads_use_their_indexes(full: Database) -> None:
    """Lists by project, assignee, due date and tag, keyset pages, trees, purge, history, inbox."""
    for index, read in HOT.items():
        shown = await plan(full, read)
        assert index in shown, f"{index}\n{shown}"
        assert "Seq Scan on task" not in shown, shown
        assert "Seq Scan on audit_log" not in shown, shown
