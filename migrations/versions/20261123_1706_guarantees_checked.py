"""Look at the rows that are there already, and build the new indexes, while the tables are in use.

Apart from the migration before, and so that each step may be done twice: one that fails is begun again.
"""

from alembic import op

from ledgerq.alembic import create_index_concurrently, drop_index_concurrently

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        with op.get_context().autocommit_block():
            op.execute("ALTER TABLE audit_log VALIDATE CONSTRAINT ck_audit_log_action")
            op.execute("ALTER TABLE processed_job VALIDATE CONSTRAINT ck_processed_job_state")
    create_index_concurrently("ix_dead_letter_fingerprint", "dead_letter", ["fingerprint"])
    create_index_concurrently(
        "ix_processed_job_processed_at", "processed_job", ["processed_at"], postgresql_using="brin"
    )


def downgrade() -> None:
    drop_index_concurrently("ix_processed_job_processed_at", "processed_job")
    drop_index_concurrently("ix_dead_letter_fingerprint", "dead_letter")
