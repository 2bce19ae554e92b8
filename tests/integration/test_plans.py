"""At 100,000 tasks the hot reads use their indexes: a plan that scans the table is a bug."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import URL
from sqlmodel import col

from db.config import DatabaseConfig
from db.engine import Database, open_database
from db.models import AuditLog, Task
from db.task_reads import TaskFilter, TaskOrder, _beyond, _filtered, _sorting
from db.transaction import transaction

FILL = (
    "INSERT INTO project (name) SELECT 'P' || n FROM generate_series(1, 50) n",
    "INSERT INTO worker (name) SELECT 'W' || n FROM generate_series(1, 200) n",
    """
    INSERT INTO task (title, project_id, assignee_id, parent_task_id, tags, due_at, deleted_at)
    SELECT 'Task ' || n, 1 + n % 50, 1 + n % 200, NULL,
           jsonb_build_array('tag' || n % 1000), now() + n * interval '1 minute',
           CASE WHEN n % 100 = 0 THEN now() - n * interval '1 minute' END
    FROM generate_series(1, 100000) n
    """,
    """
    INSERT INTO audit_log (entity_type, entity_id, action, actor, before, after, job_id)
    SELECT 'task', n, 'create', 'x', '{}', '{}', 'job' || n FROM generate_series(1, 100000) n
    """,
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


async def plan(database: Database, statement: str) -> str:
    async with database.sessions() as session:
        lines = await session.scalars(text("EXPLAIN " + statement.replace(":", r"\:")))
        return "\n".join(lines)


def literal(statement: object) -> str:
    dialect = postgresql.asyncpg.dialect()  # type: ignore[no-untyped-call]
    compiled = statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True})  # type: ignore[attr-defined]
    return str(compiled)


async def test_the_hot_reads_use_their_indexes(full: Database) -> None:
    """Lists by project, assignee, due date and tag, keyset pages, subtasks, history, purge."""
    async with full.sessions() as session:

        def listed(which: TaskFilter, order: TaskOrder, after: str | None = None) -> str:
            tasks = _filtered(session, which, order).where(col(Task.deleted_at).is_(None))
            if after:
                tasks = tasks.where(_beyond(order, after))
            return literal(tasks.order_by(*_sorting(order)).limit(51))

        newest = "WyJuZXdlc3QiLDUwMDAwXQ"  # ["newest", 50000]
        hot = {
            "ix_task_project_id_id": listed(TaskFilter(project_id=7), TaskOrder.NEWEST),
            "ix_task_assignee_id_id": listed(TaskFilter(assignee_id=7), TaskOrder.OLDEST),
            "ix_task_due_at_id": listed(TaskFilter(), TaskOrder.DUE),
            "ix_task_tags": listed(TaskFilter(tags=["tag7"]), TaskOrder.NEWEST),
            "pk_task": listed(TaskFilter(), TaskOrder.NEWEST, newest),
            "ix_task_parent_task_id": literal(select(Task).where(col(Task.parent_task_id) == 7)),
            "ix_task_deleted_at": literal(
                select(Task)
                .where(col(Task.deleted_at) < text("now() - interval '60 days'"))
                .order_by(col(Task.deleted_at), col(Task.id))
                .limit(100)
            ),
            "ix_audit_log_entity": literal(
                select(AuditLog)
                .where(
                    col(AuditLog.entity_type) == "task",
                    col(AuditLog.entity_id) == 7,
                    col(AuditLog.id) > 0,
                )
                .order_by(col(AuditLog.id))
                .limit(100)
            ),
            "ix_audit_log_job_id": literal(select(AuditLog).where(col(AuditLog.job_id) == "job7")),
        }
    for index, statement in hot.items():
        shown = await plan(full, statement)
        assert index in shown, f"{statement}\n{shown}"
        assert "Seq Scan" not in shown, shown
