"""The schema's version: bring it forward, and refuse to work on one that is behind."""

import time
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, inspect

from ledgerq.database.engine import Database, Tables, unreachable
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.sqlstate import translated
from ledgerq.errors import LockTimeout, MigrationFailed, SchemaAhead, SchemaBehind
from ledgerq.store import triggers as _triggers  # noqa: F401 - it adds them to the tables
from ledgerq.store.tables import METADATA


def migrate(config: DatabaseConfig, tables: Tables, revision: str = "head") -> None:
    """Bring the schema to a revision. Blocks; must not be called on a running event loop.

    A migration waits 3 s at most for a lock, so that it never keeps a queue of readers waiting
    behind it; then it lets them pass and tries again.

    Raises:
        LockTimeout: the lock was not to be had in any of the tries.
        MigrationFailed: there is no such revision, or no way to it; or the application has no migrations.
        Unreachable: the database does not answer.
    """
    for pause in (1, 2, 4, 8, None):
        try:
            with translated():
                command.upgrade(alembic_config(tables, config), revision)
        except LockTimeout:
            if pause is None:
                raise
            time.sleep(pause)
        except CommandError as error:
            raise MigrationFailed(f"alembic: {error}") from error
        else:
            return


async def create_tables(database: Database) -> None:
    """Make all tables at once, for tests and demos. Everything else migrates.

    The schema is marked as current, so that a worker takes it.
    """
    async with database.engine.connect() as connection:
        await connection.run_sync(_create_all, database.tables)


def alembic_config(tables: Tables, config: DatabaseConfig | None = None) -> Config:
    """Alembic's own configuration, for the database given or else the environment's.

    Raises:
        MigrationFailed: the application names no folder of migrations.
    """
    alembic = Config()
    alembic.set_main_option("script_location", str(_folder(tables)))
    alembic.attributes["database"] = config
    return alembic


def head_revision(tables: Tables) -> str:
    """The revision that this code was written for."""
    head = ScriptDirectory.from_config(alembic_config(tables)).get_current_head()
    if head is None:
        raise MigrationFailed(
            f"App(migrations=): no migrations in {_folder(tables)}; name another folder"
        )
    return head


async def current_revision(database: Database) -> str | None:
    """The revision that the database is at; None if it is empty."""
    async with database.engine.connect() as connection:
        return await connection.run_sync(_stored_revision)


async def require_current(database: Database) -> None:
    """Refuse a schema that this code was not written for; without migrations, one that lacks our tables.

    Raises:
        SchemaBehind, SchemaAhead: the text says what mends it.
        SettingError: the role may not read it.
    """
    tables = database.tables
    if tables.migrations is None:
        await _require_tables(database)
        return
    with unreachable(database.config):
        found = await current_revision(database)
    expected = head_revision(tables)
    if found != expected:
        raise (
            SchemaAhead(found, expected)
            if found and not _known(tables, found)
            else SchemaBehind(found, expected)
        )


async def _require_tables(database: Database) -> None:
    with unreachable(database.config):
        async with database.engine.connect() as connection:
            there = await connection.run_sync(lambda sync: set(inspect(sync).get_table_names()))
    if missing := sorted(METADATA.tables.keys() - there):
        raise SchemaBehind(None, f"the tables {', '.join(missing)}")


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
        for metadata in (METADATA, *tables.metadata):
            metadata.create_all(connection)
        if tables.migrations is not None:
            script = ScriptDirectory.from_config(alembic_config(tables))
            MigrationContext.configure(connection).stamp(script, "head")


def _stored_revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
