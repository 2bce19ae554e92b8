"""What the database itself sees to, whoever writes: an append-only audit log, and updated_at.

The migrations hold the same statements: a migration must never change when the code does.
"""

from sqlalchemy import DDL, Table, event

from db.models import audit, project, task, worker  # noqa: F401 - the tables must be there
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


def _after_create(table: Table, dialect: str, statements: tuple[str, ...]) -> None:
    for statement in statements:
        text = statement.replace("{table}", table.name).replace("%", "%%")
        ddl = DDL(text)  # type: ignore[no-untyped-call]
        event.listen(table, "after_create", ddl.execute_if(dialect=dialect))


_after_create(Base.metadata.tables["audit_log"], "postgresql", APPEND_ONLY_POSTGRESQL)
_after_create(Base.metadata.tables["audit_log"], "sqlite", APPEND_ONLY_SQLITE)
for _name in ("project", "worker", "task"):
    _after_create(Base.metadata.tables[_name], "postgresql", TOUCH_POSTGRESQL)
    _after_create(Base.metadata.tables[_name], "sqlite", TOUCH_SQLITE)
