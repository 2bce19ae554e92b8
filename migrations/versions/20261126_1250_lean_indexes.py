"""The indexes of tasks leave out the rows that have nothing for them: NULLs and empty lists.

On PostgreSQL they are built while the table is in use, and each new index stands before the old one goes. Reads by tag
use the new one as soon as the code is deployed that says `tags <> '[]'`.
"""

import sqlalchemy as sa
from alembic import op

from ledgerq.alembic import create_index_concurrently, drop_index_concurrently

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

LIVING, DELETED = "deleted_at IS NULL", "deleted_at IS NOT NULL"
INDEXES = {  # name: columns, the rows from now on, the rows before on PostgreSQL
    "ix_task_deleted_at": (["deleted_at"], DELETED, DELETED),
    "ix_task_assignee_id_id": (["assignee_id", "id"], "assignee_id IS NOT NULL", None),
    "ix_task_created_by_id": (["created_by_id"], "created_by_id IS NOT NULL", None),
    "ix_task_parent_task_id": (["parent_task_id"], "parent_task_id IS NOT NULL", None),
    "ix_task_due_at_id": (["due_at", "id"], f"due_at IS NOT NULL AND {LIVING}", LIVING),
    "ix_task_tags": (["tags"], "tags <> '[]'", None),
}
GIN = {"postgresql_using": "gin", "postgresql_ops": {"tags": "jsonb_path_ops"}}


def upgrade() -> None:
    for name, (columns, rows, _) in INDEXES.items():
        replace(name, columns, rows, rows)


def downgrade() -> None:
    for name, (columns, _, before) in INDEXES.items():
        replace(name, columns, before, None)


def replace(name: str, columns: list[str], rows: str | None, rows_on_sqlite: str | None) -> None:
    if op.get_context().dialect.name == "sqlite":
        op.drop_index(name, "task")
        op.create_index(
            name, "task", columns, sqlite_where=sa.text(rows_on_sqlite) if rows_on_sqlite else None
        )
        return
    create_index_concurrently(
        f"{name}_new",
        "task",
        columns,
        postgresql_where=sa.text(rows) if rows else None,
        **(GIN if columns == ["tags"] else {}),
    )
    drop_index_concurrently(name, "task")
    op.execute(f"ALTER INDEX {name}_new RENAME TO {name}")
