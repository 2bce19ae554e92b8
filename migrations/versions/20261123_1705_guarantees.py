"""The guarantees: outbox, unique keys, cancelled jobs, and what a dead letter needs to be replayed."""

from typing import Literal

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
MOMENT = sa.DateTime(timezone=True)

ACTIONS = ("create", "update", "delete", "restore", "purge")
NEW_ACTIONS = (*ACTIONS, "replay", "discard", "cancel")

BURIED_BEFORE = {  # the hashes of their payloads are not known
    "postgresql": """
        INSERT INTO processed_job (job_id, kind, payload_hash, state, attempt)
        SELECT job_id, coalesce(kind, 'unknown'), ''::bytea, 'dead', attempt FROM dead_letter
        WHERE reason <> 'payload_mismatch' ON CONFLICT (job_id) DO NOTHING
        """,
    "sqlite": """
        INSERT OR IGNORE INTO processed_job (job_id, kind, payload_hash, state, attempt)
        SELECT job_id, coalesce(kind, 'unknown'), x'', 'dead', attempt FROM dead_letter
        WHERE reason <> 'payload_mismatch'
        """,
}

LETTER_COLUMNS = (
    ("actor", sa.String(200)),
    ("trace_id", sa.String(64)),
    ("attempts", JSON),
    ("worker", sa.String(200)),
    ("fingerprint", sa.String(16)),
)

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

NOTIFY = (
    """
    CREATE FUNCTION outbox_message_notify() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_notify('ledgerq_outbox', '');
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER outbox_message_notify AFTER INSERT ON outbox_message
    FOR EACH STATEMENT EXECUTE FUNCTION outbox_message_notify()
    """,
)

ENQUEUE_JOB = """
CREATE FUNCTION enqueue_job(
    kind text, payload jsonb DEFAULT '{}', job_id text DEFAULT NULL, actor text DEFAULT 'sql',
    run_at timestamptz DEFAULT NULL, ordering_key text DEFAULT NULL, trace_id text DEFAULT NULL
) RETURNS text LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    id text := coalesce(enqueue_job.job_id, replace(gen_random_uuid()::text, '-', ''));
BEGIN
    IF coalesce(length(enqueue_job.kind), 0) NOT BETWEEN 1 AND 100 THEN
        RAISE EXCEPTION 'kind: must have 1 to 100 characters' USING ERRCODE = '22023';
    END IF;
    IF length(id) NOT BETWEEN 1 AND 200 OR id ~ '[[:cntrl:]]' THEN
        RAISE EXCEPTION 'job_id: must have 1 to 200 printable characters' USING ERRCODE = '22023';
    END IF;
    IF jsonb_typeof(enqueue_job.payload) IS DISTINCT FROM 'object' THEN
        RAISE EXCEPTION 'payload: must be a JSON object' USING ERRCODE = '22023';
    END IF;
    IF octet_length(enqueue_job.payload::text) > 900000 THEN
        RAISE EXCEPTION 'payload: must have at most 900000 bytes' USING ERRCODE = '22023';
    END IF;
    IF enqueue_job.ordering_key IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock(hashtextextended(enqueue_job.ordering_key, 0));
    END IF;
    INSERT INTO outbox_message
        (job_id, kind, payload, actor, trace_id, ordering_key, next_dispatch_at)
    VALUES (id, enqueue_job.kind, enqueue_job.payload, coalesce(enqueue_job.actor, 'sql'),
        enqueue_job.trace_id, enqueue_job.ordering_key, coalesce(enqueue_job.run_at, now()))
    ON CONFLICT (job_id) DO NOTHING;
    IF NOT FOUND AND NOT EXISTS (
        SELECT 1 FROM outbox_message AS staged WHERE staged.job_id = id
        AND staged.kind = enqueue_job.kind AND staged.payload = enqueue_job.payload
    ) THEN
        RAISE EXCEPTION 'job_id: % is staged with another payload; use a new id for new work', id
            USING ERRCODE = '23505';
    END IF;
    RETURN id;
END $$
"""


def on_postgresql() -> bool:
    return op.get_context().dialect.name == "postgresql"


def now() -> sa.TextClause:
    return sa.text("now()" if on_postgresql() else "(strftime('%Y-%m-%d %H\\:%M\\:%f000', 'now'))")


def upgrade() -> None:
    create_outbox()
    op.create_table(
        "unique_key",
        sa.Column("kind", sa.String(100), nullable=False),
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("job_id", sa.String(200), nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("kind", "key", name="pk_unique_key"),
    )
    op.create_index("ix_unique_key_expires_at", "unique_key", ["expires_at"])
    # on SQLite a new table, in which an id is not given twice
    recreate: Literal["never", "always"] = "never" if on_postgresql() else "always"
    options = {"sqlite_autoincrement": True}
    with op.batch_alter_table("dead_letter", recreate=recreate, table_kwargs=options) as table:
        for name, kind in LETTER_COLUMNS:
            table.add_column(sa.Column(name, kind, nullable=True))
    give_jobs_a_state()
    op.execute(BURIED_BEFORE[op.get_context().dialect.name])
    allow_actions(NEW_ACTIONS)


def create_outbox() -> None:
    op.create_table(
        "outbox_message",
        sa.Column("seq", ID, nullable=False),
        sa.Column("job_id", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(100), nullable=False),
        sa.Column("payload", JSON, nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("trace_id", sa.String(64), nullable=True),
        sa.Column("ordering_key", sa.String(200), nullable=True),
        sa.Column("next_dispatch_at", MOMENT, server_default=now(), nullable=False),
        sa.Column("dispatches", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", MOMENT, server_default=now(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_outbox_message"),
        sa.UniqueConstraint("job_id", name="uq_outbox_message_job_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outbox_message_due", "outbox_message", ["next_dispatch_at", "seq"])
    op.create_index(
        "ix_outbox_message_ordering",
        "outbox_message",
        ["ordering_key", "seq"],
        postgresql_where=sa.text("ordering_key IS NOT NULL"),
    )
    if on_postgresql():
        op.execute(sa.text(ENQUEUE_JOB.replace(":", r"\:")))
        for statement in NOTIFY:
            op.execute(statement)


def give_jobs_a_state() -> None:
    state = sa.Column("state", sa.String(20), server_default="done", nullable=False)
    with op.batch_alter_table("processed_job") as table:
        table.add_column(state)
        table.add_column(sa.Column("attempt", sa.Integer(), nullable=True))
        table.create_check_constraint(
            op.f("ck_processed_job_state"),
            "state IN ('done', 'cancelled', 'dead')",
            postgresql_not_valid=True,  # the next migration looks at the rows
        )


def allow_actions(actions: tuple[str, ...]) -> None:
    """Change which actions the audit log knows. SQLite can only do so by copying the table."""
    rule = f"action IN ({', '.join(repr(each) for each in actions)})"
    name = op.f("ck_audit_log_action")
    if on_postgresql():  # the next migration looks at the rows, and keeps no writer out
        op.drop_constraint(name, "audit_log", type_="check")
        op.create_check_constraint(name, "audit_log", rule, postgresql_not_valid=True)
        return
    with op.batch_alter_table("audit_log", recreate="always") as table:
        table.drop_constraint(name, type_="check")
        table.create_check_constraint(name, rule)
    for statement in AUDIT_LOG_ON_SQLITE:
        op.execute(statement)


def downgrade() -> None:
    allow_actions(ACTIONS)
    with op.batch_alter_table("processed_job") as table:
        table.drop_constraint(op.f("ck_processed_job_state"), type_="check")
        table.drop_column("attempt")
        table.drop_column("state")
    for name, _ in LETTER_COLUMNS:
        op.drop_column("dead_letter", name)
    op.drop_table("unique_key")
    if on_postgresql():
        op.execute("DROP FUNCTION enqueue_job")
    op.drop_table("outbox_message")
    if on_postgresql():
        op.execute("DROP FUNCTION outbox_message_notify()")
