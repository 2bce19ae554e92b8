"""Triggers that set `updated_at` at every change of a row, also by other programs.

The migrations have their own copies of these statements: a migration must never change when the code does.
"""

from db.models.project import Project
from db.models.task import Task
from db.models.worker import Worker
from ledgerq.columns import after_create, in_schema_of

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

for _model in (Project, Worker, Task):
    _table = _model.metadata.tables[_model.__tablename__]
    after_create(_table, "postgresql", TOUCH_POSTGRESQL)
    after_create(_table, "sqlite", TOUCH_SQLITE)
