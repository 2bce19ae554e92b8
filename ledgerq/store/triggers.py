"""What the database itself does, whoever calls: an append-only audit log, and enqueue_job.

The migrations hold the same statements: a migration must never change when the code does.
"""

from ledgerq.columns import after_create, in_schema_of
from ledgerq.store.enqueue_function import CANONICAL_PAYLOAD, ENQUEUE_JOB, MAY_CALL
from ledgerq.store.tables import METADATA

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

OUTBOX_POSTGRESQL = (
    in_schema_of("outbox_message", CANONICAL_PAYLOAD),
    in_schema_of("outbox_message", ENQUEUE_JOB),
    in_schema_of("outbox_message", MAY_CALL),
    in_schema_of(
        "outbox_message",
        """
    CREATE OR REPLACE FUNCTION {schema}.outbox_message_notify() RETURNS trigger LANGUAGE plpgsql AS $body$
    BEGIN
        PERFORM pg_catalog.pg_notify('ledgerq_outbox', '');
        RETURN NULL;
    END $body$
    """,
    ),
    """
    CREATE TRIGGER outbox_message_notify AFTER INSERT ON outbox_message
    FOR EACH STATEMENT EXECUTE FUNCTION outbox_message_notify()
    """,
)

_AUDIT_LOG, _OUTBOX_MESSAGE = METADATA.tables["audit_log"], METADATA.tables["outbox_message"]
after_create(_AUDIT_LOG, "postgresql", APPEND_ONLY_POSTGRESQL)
after_create(_AUDIT_LOG, "sqlite", APPEND_ONLY_SQLITE)
after_create(_OUTBOX_MESSAGE, "postgresql", OUTBOX_POSTGRESQL)
