"""Audit ids are text, actions are free words; the outbox and the dead letters know the queue.

PostgreSQL rewrites the audit log for it, and keeps writers out meanwhile: some seconds for a million entries.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

ACTIONS = "'create', 'update', 'delete', 'restore', 'purge', 'replay', 'discard', 'cancel'"
AUDIT_LOG_ON_SQLITE = (
    """
    CREATE TRIGGER audit_log_no_update BEFORE UPDATE ON audit_log
    BEGIN SELECT RAISE(ABORT, 'audit_log is append-only: UPDATE refused'); END
    """,
    """
    CREATE TRIGGER audit_log_no_delete BEFORE DELETE ON audit_log
    BEGIN SELECT RAISE(ABORT, 'audit_log is append-only: DELETE refused'); END
    """,
    """
    CREATE TRIGGER audit_log_no_replace BEFORE INSERT ON audit_log
    WHEN EXISTS (SELECT 1 FROM audit_log WHERE id = NEW.id)
    BEGIN SELECT RAISE(ABORT, 'audit_log is append-only: REPLACE refused'); END
    """,
)


def on_postgresql() -> bool:
    return op.get_context().dialect.name == "postgresql"


def queue() -> sa.Column[str]:
    return sa.Column("queue", sa.String(200), nullable=True)


def upgrade() -> None:
    op.add_column("outbox_message", queue())
    op.add_column("dead_letter", queue())
    if on_postgresql():  # one statement, so that the table is written once
        op.execute(
            "ALTER TABLE audit_log DROP CONSTRAINT ck_audit_log_action, "
            "ALTER entity_type TYPE varchar(128), ALTER entity_id TYPE varchar(200), "
            "ALTER action TYPE varchar(50)"
        )
        return
    with op.batch_alter_table("audit_log", recreate="always") as table:
        table.drop_constraint(op.f("ck_audit_log_action"), type_="check")
        table.alter_column("entity_type", type_=sa.String(128), existing_nullable=False)
        table.alter_column("entity_id", type_=sa.String(200), existing_nullable=False)
        table.alter_column("action", type_=sa.String(50), existing_nullable=False)
    protect()


def protect() -> None:
    for statement in AUDIT_LOG_ON_SQLITE:
        op.execute(statement)


def downgrade() -> None:
    """Fails where an id is no number or an action not one of ours: nothing is lost by it."""
    if on_postgresql():
        op.execute(
            "ALTER TABLE audit_log ALTER entity_type TYPE varchar(50), "
            "ALTER entity_id TYPE bigint USING CASE WHEN entity_type = 'job' THEN 0 ELSE entity_id::bigint END, "
            f"ALTER action TYPE varchar(20), ADD CONSTRAINT ck_audit_log_action CHECK (action IN ({ACTIONS}))"
        )
    else:
        with op.batch_alter_table("audit_log", recreate="always") as table:
            table.alter_column("entity_type", type_=sa.String(50), existing_nullable=False)
            table.alter_column("entity_id", type_=sa.Integer(), existing_nullable=False)
            table.alter_column("action", type_=sa.String(20), existing_nullable=False)
            table.create_check_constraint(op.f("ck_audit_log_action"), f"action IN ({ACTIONS})")
        protect()
    op.drop_column("dead_letter", "queue")
    op.drop_column("outbox_message", "queue")
