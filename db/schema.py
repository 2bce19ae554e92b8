"""The schema's version: bring it forward, and refuse to work on one that is behind."""

import time
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection

from db.config import DatabaseConfig
from db.engine import Database, unreachable
from db.errors import LockTimeout, MigrationFailed, SchemaAhead, SchemaBehind
from db.models import Base
from db.translate import translated

MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"


def migrate(config: DatabaseConfig, revision: str = "head") -> None:
    """Bring the schema to a revision. Blocks; must not be called on a running event loop.

    A migration waits 3 s at most for a lock, so that it never keeps a queue of readers waiting
    behind it; then it lets them pass and tries again.

    Raises:
        LockTimeout: the lock was not to be had in any of the tries.
        MigrationFailed: there is no such revision, or no way to it.
        Unreachable: the database does not answer.
    """
    for pause in (1, 2, 4, 8, None):
        try:
            with translated():
                command.upgrade(alembic_config(config), revision)
        except LockTimeout:
            if pause is None:
                raise
            time.sleep(pause)
        except CommandError as error:
            raise MigrationFailed(f"alembic: {error}") from error
        else:
            return


async def create_db_and_tables(database: Database) -> None:
    """Make all tables at once, for tests and demos. Everything else migrates.

    The schema is marked as current, so that a worker takes it.
    """
    async with database.engine.connect() as connection:
        await connection.run_sync(_create_all)


def alembic_config(config: DatabaseConfig | None = None) -> Config:
    """Alembic's own configuration, for the database given or else the environment's."""
    alembic = Config()
    alembic.set_main_option("script_location", str(MIGRATIONS))
    alembic.attributes["database"] = config
    return alembic


def head_revision() -> str:
    """The revision that this code was written for."""
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    if head is None:
        raise RuntimeError(f"no migrations in {MIGRATIONS}")
    return head


async def current_revision(database: Database) -> str | None:
    """The revision that the database is at; None if it is empty."""
    async with database.engine.connect() as connection:
        return await connection.run_sync(_stored_revision)


async def require_current(database: Database) -> None:
    """Refuse a schema that this code was not written for.

    Raises:
        SchemaBehind, SchemaAhead: the text says what mends it.
        SettingError: the role may not read it.
    """
    with unreachable(database.config):
        found = await current_revision(database)
    expected = head_revision()
    if found != expected:
        raise (
            SchemaAhead(found, expected)
            if found and not _known(found)
            else SchemaBehind(found, expected)
        )


def _known(revision: str) -> bool:
    script = ScriptDirectory.from_config(alembic_config())
    return any(each.revision == revision for each in script.walk_revisions())


def _create_all(connection: Connection) -> None:
    script = ScriptDirectory.from_config(alembic_config())
    with connection.begin():
        Base.metadata.create_all(connection)
        MigrationContext.configure(connection).stamp(script, "head")


def _stored_revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
