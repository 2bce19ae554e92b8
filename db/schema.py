"""The schema of the task manager: its own tables and those of ledgerq, in one history."""

from pathlib import Path

from alembic.config import Config

from db.models import Base
from ledgerq import alembic
from ledgerq.sessions import Database, DatabaseConfig, Tables

MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"
TABLES = Tables(metadata=(Base.metadata,), migrations=MIGRATIONS)


def migrate(config: DatabaseConfig, revision: str = "head") -> None:
    """Migrate the database to a revision: see `ledgerq.alembic.migrate`."""
    alembic.migrate(config, TABLES, revision)


async def create_db_and_tables(database: Database) -> None:
    """Make all tables at once, for tests and demos, and mark the database with the newest revision."""
    await alembic.create_tables(database)


def alembic_config(config: DatabaseConfig | None = None) -> Config:
    """Alembic's configuration for the given database; None: for DATABASE_URL's."""
    return alembic.alembic_config(TABLES, config)


def head_revision() -> str:
    """The newest revision of the migrations, which this code needs."""
    return alembic.head_revision(TABLES)
