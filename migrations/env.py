"""Alembic's way in. The database comes from the caller's `config.attributes` or else from DATABASE_URL."""

import asyncio
import sys
from typing import Literal

from alembic import context
from sqlalchemy import Connection, pool
from sqlmodel.sql.sqltypes import AutoString

from db.config import DatabaseConfig
from db.ddl import one_at_a_time
from db.engine import build_engine, unreachable
from db.errors import LedgerqError, SettingError
from db.models import Base
from db.models.base import UtcDateTime
from db.settings import load
from db.sqlite import WRITES

HOURS = 4 * 3600.0  # seconds that one statement of a migration may take: a large index takes long


def main() -> None:
    given = context.config.attributes.get("database")
    if isinstance(given, DatabaseConfig):
        run(given)
        return
    try:
        run(load(DatabaseConfig))
    except LedgerqError as error:
        sys.exit(f"alembic: {error}")


def run(config: DatabaseConfig) -> None:
    if context.is_offline_mode():
        migrate(None, config)
    else:
        asyncio.run(migrate_online(config))


def as_plain_type(kind: str, value: object, _context: object) -> str | Literal[False]:
    """Write a column's type into a migration as plain SQLAlchemy: a migration must not change with us."""
    if kind == "type" and isinstance(value, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    if kind == "type" and isinstance(value, AutoString):
        return f"sa.String({value.length})"
    return False


def migrate(connection: Connection | None, config: DatabaseConfig) -> None:
    context.configure(
        connection=connection,
        url=None if connection else config.url,
        literal_binds=connection is None,
        dialect_opts={"paramstyle": "named"},
        target_metadata=Base.metadata,
        render_item=as_plain_type,
        render_as_batch=config.is_sqlite,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


async def migrate_online(config: DatabaseConfig) -> None:
    if config.target.pgbouncer:  # its connections are not ours: no lock of a session, no timeouts
        raise SettingError(
            "DATABASE_URL", "goes through pgbouncer", "migrate by the server's own URL"
        )
    patient = config.model_copy(update={"statement_timeout": HOURS, "lock_timeout": 3})
    engine = build_engine(patient, poolclass=pool.NullPool)
    try:
        with unreachable(config):
            async with engine.connect():
                pass
        writing = engine.execution_options(**{WRITES: True})  # on SQLite: wait for the other one
        async with one_at_a_time(engine), writing.connect() as connection:
            await connection.run_sync(migrate, config)
    finally:
        await engine.dispose()


main()
