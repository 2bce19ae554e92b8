"""Indexes for lists, built while the tables are in use."""

import sqlalchemy as sa

from ledgerq.alembic import create_index_concurrently, drop_index_concurrently

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

LISTS = ("ix_task_assignee_id_id", "ix_task_due_at_id", "ix_task_tags")


def upgrade() -> None:
    create_index_concurrently("ix_task_assignee_id_id", "task", ["assignee_id", "id"])
    create_index_concurrently(
        "ix_task_due_at_id",
        "task",
        ["due_at", "id"],
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    create_index_concurrently(
        "ix_task_tags",
        "task",
        ["tags"],
        postgresql_using="gin",
        postgresql_ops={"tags": "jsonb_path_ops"},
    )


def downgrade() -> None:
    for name in LISTS:
        drop_index_concurrently(name, "task")
