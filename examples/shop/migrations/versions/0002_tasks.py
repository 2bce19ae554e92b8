"""The tasks of the warehouse, and ledgerq's own tables."""

import sqlalchemy as sa
from alembic import op

from ledgerq import alembic as ledgerq_tables

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "task",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("is_done", sa.Boolean(), nullable=False),
        sa.Column("is_urgent", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["order_id"], ["shop_order.id"], name="fk_task_order_id_shop_order"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_task"),
        sa.UniqueConstraint("order_id", name="uq_task_order_id"),
    )
    ledgerq_tables.upgrade(op, to=2)


def downgrade() -> None:
    ledgerq_tables.downgrade(op, to=0)
    op.drop_table("task")
