"""What the database itself does, whoever calls: an append-only audit log, updated_at, enqueue_job.

The migrations hold the same statements: a migration must never change when the code does.
"""

from sqlalchemy import DDL, Table, event

from db.models import audit, delivery, project, task, worker  # noqa: F401 - the tables must be there
from db.models.base import Base

APPEND_ONLY_POSTGRESQL = (
    """
    CREATE OR REPLACE FUNCTION audit_log_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'audit_log is append-only: % refused', TG_OP
            USING ERRCODE = 'insufficient_privilege';
    END $$
    """,
    """
    CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_log_refuse()
    """,
    # fires for session_replication_role = replica too
    "ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_append_only",
)
APPEND_ONLY_SQLITE = (
    """
    CREATE TRIGGER audit_log_no_update BEFORE UPDATE ON audit_log
    BEGIN SELECT RAISE(ABORT, 'audit_log is append-only: UPDATE refused'); END
    """,
    """
    CREATE TRIGGER audit_log_no_delete BEFORE DELETE ON audit_log
    BEGIN SELECT RAISE(ABORT, 'audit_log is append-only: DELETE refused'); END
    """,
    # INSERT OR REPLACE deletes the old row without firing its DELETE trigger
    """
    CREATE TRIGGER audit_log_no_replace BEFORE INSERT ON audit_log
    WHEN EXISTS (SELECT 1 FROM audit_log WHERE id = NEW.id)
    BEGIN SELECT RAISE(ABORT, 'audit_log is append-only: REPLACE refused'); END
    """,
)
TOUCH_POSTGRESQL = (
    """
    CREATE OR REPLACE FUNCTION touch_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.updated_at := now();
        RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER {table}_touch_updated_at BEFORE UPDATE ON {table}
    FOR EACH ROW EXECUTE FUNCTION touch_updated_at()
    """,
)
TOUCH_SQLITE = (
    """
    CREATE TRIGGER {table}_touch_updated_at AFTER UPDATE ON {table}
    WHEN NEW.updated_at IS OLD.updated_at
    BEGIN
        UPDATE {table} SET updated_at = strftime('%Y-%m-%d %H:%M:%f000', 'now') WHERE id = NEW.id;
    END
    """,
)
ENQUEUE_JOB = (
    """
    CREATE OR REPLACE FUNCTION enqueue_job(
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
    """,
    """
    CREATE OR REPLACE FUNCTION outbox_message_notify() RETURNS trigger LANGUAGE plpgsql AS $$
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


def _after_create(table: Table, dialect: str, statements: tuple[str, ...]) -> None:
    for statement in statements:
        text = statement.replace("{table}", table.name).replace("%", "%%")
        ddl = DDL(text)  # type: ignore[no-untyped-call]
        event.listen(table, "after_create", ddl.execute_if(dialect=dialect))


_after_create(Base.metadata.tables["audit_log"], "postgresql", APPEND_ONLY_POSTGRESQL)
_after_create(Base.metadata.tables["audit_log"], "sqlite", APPEND_ONLY_SQLITE)
_after_create(Base.metadata.tables["outbox_message"], "postgresql", ENQUEUE_JOB)
for _name in ("project", "worker", "task"):
    _after_create(Base.metadata.tables[_name], "postgresql", TOUCH_POSTGRESQL)
    _after_create(Base.metadata.tables[_name], "sqlite", TOUCH_SQLITE)
