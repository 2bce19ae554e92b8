"""The tables of ledgerq move into a schema of their own; from here on this history is the task manager's alone.

Rows are not written again. `public.enqueue_job` stays for producers that call it; on SQLite the tables stay too.
"""

from alembic import op

from ledgerq.alembic import adopt

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    adopt(op)


def downgrade() -> None:
    raise NotImplementedError(
        "the tables of ledgerq do not move back: restore a backup of before, or keep this schema"
    )
