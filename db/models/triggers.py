"""What the database itself does, whoever calls: an append-only audit log, updated_at, enqueue_job.

The migrations hold the same statements: a migration must never change when the code does.
"""

from sqlalchemy import DDL, Table, event

from db.models import audit, delivery, project, task, worker  # noqa: F401 - the tables must be there
from db.models.base import Base
from db.models.enqueue_job import CANONICAL_PAYLOAD, ENQUEUE_JOB, MAY_CALL

IN_SCHEMA = """
DO $in_schema$
BEGIN
    EXECUTE replace($statement${statement}$statement$, '{schema}', (
        SELECT quote_ident(nspname) FROM pg_catalog.pg_namespace AS n
        JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid
        WHERE c.oid = '{of_table}'::regclass
    ));
END $in_schema$
"""


def in_schema_of(table: str, statement: str) -> str:
    """The statement, in which `{schema}` is the one that the table stands in, whatever the search_path.

    Only the database knows it, and `--sql` writes a file without asking one: so the statement asks.
    """
    return IN_SCHEMA.replace("{of_table}", table).replace("{statement}", statement)


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
    in_schema_of(
        "{table}",
        """
    CREATE OR REPLACE FUNCTION {schema}.touch_updated_at() RETURNS trigger LANGUAGE plpgsql AS $body$
    BEGIN
        NEW.updated_at := pg_catalog.now();
        RETURN NEW;
    END $body$
    """,
    ),
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


def _after_create(table: Table, dialect: str, statements: tuple[str, ...]) -> None:
    for statement in statements:
        text = statement.replace("{table}", table.name).replace("%", "%%")
        ddl = DDL(text)  # type: ignore[no-untyped-call]
        event.listen(table, "after_create", ddl.execute_if(dialect=dialect))


_after_create(Base.metadata.tables["audit_log"], "postgresql", APPEND_ONLY_POSTGRESQL)
_after_create(Base.metadata.tables["audit_log"], "sqlite", APPEND_ONLY_SQLITE)
_after_create(Base.metadata.tables["outbox_message"], "postgresql", OUTBOX_POSTGRESQL)
for _name in ("project", "worker", "task"):
    _after_create(Base.metadata.tables[_name], "postgresql", TOUCH_POSTGRESQL)
    _after_create(Base.metadata.tables[_name], "sqlite", TOUCH_SQLITE)
