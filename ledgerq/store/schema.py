"""The version of a database's schema, and whether this code can work on it. Each command that uses one checks first."""

from dataclasses import dataclass
from pathlib import Path

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.schema import CreateSchema

from ledgerq.database.engine import Database, Tables, unreachable
from ledgerq.database.own_schema import SCHEMA, quoted
from ledgerq.database.settings import DatabaseConfig
from ledgerq.errors import DefinitionError, MigrationFailed, SchemaAhead, SchemaBehind, SettingError
from ledgerq.store.audit_rules import rules_by_table
from ledgerq.store.audit_trigger import AuditedTable
from ledgerq.store.tables import METADATA
from ledgerq.store.versions import NEEDED, NEWEST, upgrading

_LOOK = text(
    "SELECT has_schema_privilege(n.oid, 'USAGE'), c.oid IS NOT NULL, current_user FROM pg_namespace AS n "
    "LEFT JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = 'schema_version' WHERE n.nspname = :schema"
)
_UNADOPTED = text(
    "SELECT outbox.relnamespace::regnamespace::text FROM pg_class AS outbox "
    "JOIN pg_trigger AS notifies ON notifies.tgrelid = outbox.oid AND notifies.tgname = 'outbox_message_notify' "
    "WHERE outbox.oid = to_regclass('outbox_message') AND NOT EXISTS (SELECT FROM pg_class AS newer "
    "WHERE newer.relnamespace = outbox.relnamespace AND newer.relname = 'schema_version')"
)


@dataclass(frozen=True, slots=True)
class Reached:
    """`version`: that of ledgerq's tables, 0 if there are none. `code_from`: the oldest code version that may use them."""

    version: int = 0
    code_from: int = 0


def reached(connection: Connection, schema: str = SCHEMA) -> Reached:
    """The version of ledgerq's tables in a database.

    Raises:
        SettingError: the role may not use the schema.
    """
    if connection.dialect.name == "sqlite":
        there, place = inspect(connection).has_table("schema_version"), ""
    else:
        place = f"{quoted(schema)}."
        look = connection.execute(_LOOK, {"schema": schema}).one_or_none()
        if look is not None and not look[0]:
            role = str(look[2]).replace('"', '""')
            raise SettingError(
                "DATABASE_URL",
                f"role {look[2]} may not use schema {schema}",
                f'run: GRANT USAGE ON SCHEMA {quoted(schema)} TO "{role}"',
            )
        there = look is not None and bool(look[1])
    if not there:
        return Reached()
    stored = text(f"SELECT max(version), max(code_from) FROM {place}schema_version")  # noqa: S608 - a checked name
    version, code_from = connection.execute(stored).one()
    return Reached(version or 0, code_from or 0)


def bring_up(connection: Connection, schema: str = SCHEMA, to: int = NEWEST) -> None:
    """Run the versions that a database lacks, in the caller's transaction.

    Raises:
        MigrationFailed: the database has tables of ledgerq 0.1, which must be adopted first.
    """
    found = reached(connection, schema).version
    if found == 0:
        refuse_unadopted(connection, schema)
    for statement in upgrading(connection.dialect.name, found, to, schema):
        connection.exec_driver_sql(statement)


def refuse_unadopted(connection: Connection, schema: str) -> None:
    """Refuse to make new tables beside those of 0.1: the jobs in the old ones would be lost from sight.

    Raises:
        MigrationFailed: the search_path finds tables of 0.1 that were not adopted; on SQLite: the file has such tables.
    """
    if connection.dialect.name == "sqlite":
        place = "this file" if inspect(connection).has_table("outbox_message") else None
    else:
        there = connection.execute(_UNADOPTED).scalar() if schema == SCHEMA else None
        place = f"schema {there}" if there else None
    if place:
        raise MigrationFailed(
            f"the tables of ledgerq 0.1 stand in {place}; "
            "call ledgerq.alembic.adopt(op) in a migration of yours, and run that"
        )


async def create_tables(database: Database) -> None:
    """Make all tables at once, without migrations, and attach the audit triggers: for tests and demos.

    The database is marked with the newest revision, so that a worker accepts it. On PostgreSQL, the schemas of the
    application's tables are made too.

    Raises:
        DefinitionError: on SQLite, a table names a schema or has the name of one of ledgerq's tables.
    """
    async with database.engine.connect() as connection:
        await connection.run_sync(_create_all, database.tables)


def alembic_config(tables: Tables, config: DatabaseConfig | None = None) -> Config:
    """Alembic's configuration for the application's migrations, on the given database; None: on DATABASE_URL's.

    Raises:
        MigrationFailed: the application names no folder of migrations.
    """
    alembic = Config()
    alembic.set_main_option("script_location", str(_folder(tables)))
    alembic.attributes["database"] = config
    return alembic


def head_revision(tables: Tables) -> str:
    """The id of Alembic's head revision in the folder `tables.migrations`.

    Raises:
        MigrationFailed: the application names no folder, or there is no migration in it.
    """
    head = ScriptDirectory.from_config(alembic_config(tables)).get_current_head()
    if head is None:
        raise MigrationFailed(
            f"App(migrations=): no migrations in {_folder(tables)}; name another folder"
        )
    return head


async def current_version(database: Database) -> int:
    """The version of ledgerq's tables; 0 if there are none.

    Raises:
        SettingError: the role may not use the schema.
    """
    async with database.engine.connect() as connection:
        return (await connection.run_sync(reached, database.tables.schema)).version


async def current_revision(database: Database) -> str | None:
    """The Alembic revision of the application's own tables in the database; None if no migration has run."""
    async with database.engine.connect() as connection:
        return await connection.run_sync(_stored_revision)


async def require_current(database: Database) -> None:
    """Refuse a database whose schema this code can't work on.

    ledgerq's tables may have a newer version than this code knows, unless that version says that older code can't work
    on it. If `App(migrations=)` is given, the application's own tables must be at the newest revision there.

    Raises:
        SchemaBehind, SchemaAhead: the schema is too old or too new; the text says what to do.
        SettingError: the role may not use the schema of ledgerq's tables.
        Unreachable: the database does not answer.
    """
    with unreachable(database.config):
        async with database.engine.connect() as connection:
            found = await connection.run_sync(reached, database.tables.schema)
    if found.version < NEEDED:
        raise SchemaBehind(_named(found.version) if found.version else None, _named(NEEDED))
    if found.code_from > NEWEST:
        raise SchemaAhead(_named(found.version), f"at most {_named(NEWEST)}")
    if database.tables.migrations is not None:
        await _require_own_revision(database)


def _named(version: int) -> str:
    return f"version {version} of ledgerq's tables"


async def _require_own_revision(database: Database) -> None:
    with unreachable(database.config):
        found = await current_revision(database)
    expected = head_revision(database.tables)
    if found != expected:
        raise (
            SchemaAhead(found, expected)
            if found and not _known(database.tables, found)
            else SchemaBehind(found, expected)
        )


def _folder(tables: Tables) -> Path:
    if tables.migrations is None:
        raise MigrationFailed(
            "App(migrations=): the application names no folder of Alembic migrations; name one"
        )
    return tables.migrations


def _known(tables: Tables, revision: str) -> bool:
    script = ScriptDirectory.from_config(alembic_config(tables))
    return any(each.revision == revision for each in script.walk_revisions())


def _create_all(connection: Connection, tables: Tables) -> None:
    with connection.begin():
        _make_room(connection, tables)
        bring_up(connection, tables.schema)
        for metadata in tables.metadata:
            metadata.create_all(connection)
        if tables.recorder and connection.dialect.name == "postgresql":
            for each in rules_by_table(tables.recorder.rules.values()).values():
                for statement in (
                    AuditedTable.of(each).attach(tables.schema) if each.by_trigger else ()
                ):
                    connection.exec_driver_sql(statement)
        if tables.migrations is not None:
            script = ScriptDirectory.from_config(alembic_config(tables))
            MigrationContext.configure(connection).stamp(script, "head")


def _make_room(connection: Connection, tables: Tables) -> None:
    """Make the schemas of the application's tables on PostgreSQL. On SQLite, which has one schema, refuse what has no room.

    Raises:
        DefinitionError: on SQLite, a table names a schema or has the name of one of ledgerq's tables.
    """
    translated = connection.get_execution_options().get("schema_translate_map") or {}
    theirs = [table for metadata in tables.metadata for table in metadata.tables.values()]
    placed = [(table, translated.get(table.schema, table.schema)) for table in theirs]
    if connection.dialect.name != "sqlite":
        for schema in {schema for _, schema in placed if schema}:
            if not inspect(connection).has_schema(schema):  # who may make none may have made it
                connection.execute(CreateSchema(schema))
        return
    ours = {table.name for table in METADATA.tables.values()}
    for table, schema in placed:
        if schema or table.name in ours:
            problem = "stands in a schema" if schema else "has the name of a table of ledgerq's"
            raise DefinitionError(
                f"App(metadata=): {table}",
                f"{problem}, and SQLite has one schema for all",
                "test on PostgreSQL, by the ini option ledgerq_database = postgresql",
            )


def _stored_revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
