"""For an application's migrations: what its `env.py` runs, indexes on tables in use, and where the schema is."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

from alembic import context, op
from sqlalchemy import Connection, MetaData, pool, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel.sql.sqltypes import AutoString

from ledgerq.columns import NAMING_CONVENTION, UtcDateTime
from ledgerq.database.engine import build_engine, unreachable
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.sqlite import WRITES
from ledgerq.errors import LedgerqError, SettingError
from ledgerq.settings import load
from ledgerq.store.enqueue_function import UNPRINTABLE
from ledgerq.store.schema import (
    alembic_config,
    create_tables,
    current_revision,
    head_revision,
    migrate,
    require_current,
)
from ledgerq.store.tables import METADATA

__all__ = [
    "UNPRINTABLE",
    "alembic_config",
    "create_index_concurrently",
    "create_tables",
    "current_revision",
    "drop_index_concurrently",
    "head_revision",
    "migrate",
    "require_current",
    "run",
]

_HOURS = 4 * 3600.0  # seconds that one statement of a migration may take: a large index takes long
_LOCK = 0x6C65646765727121  # "ledgerq!": pg_advisory_lock takes a 64-bit number
_PATIENCE = 0.2  # seconds between two looks at the lock


def create_index_concurrently(
    name: str, table: str, columns: Sequence[str], **options: Any
) -> None:
    """Build an index without keeping writers out; one left invalid by a failed try is replaced.

    It can't run in a transaction: what the migration did before is committed first.
    """
    if op.get_context().dialect.name != "postgresql":
        op.create_index(name, table, list(columns), **options)
        return
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")  # it waits for running transactions, without a lock
        op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)
        op.create_index(name, table, list(columns), postgresql_concurrently=True, **options)
        op.execute("RESET lock_timeout")


def drop_index_concurrently(name: str, table: str) -> None:
    """Drop an index without keeping writers out."""
    if op.get_context().dialect.name != "postgresql":
        op.drop_index(name, table)
        return
    with op.get_context().autocommit_block():
        op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)


@asynccontextmanager
async def one_at_a_time(engine: AsyncEngine) -> AsyncIterator[None]:
    """Of several deploys that migrate at once, one goes first; the others wait here and find it done.

    The lock is asked for again and again instead of waited for: who waits in the database holds a
    snapshot, and CREATE INDEX CONCURRENTLY in the one that goes first would wait for that. It is
    the session's, so a deploy that is killed lets go of it. On SQLite
    the transaction itself is the lock: it begins as a writer.
    """
    if engine.dialect.name != "postgresql":
        yield
        return
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        while not await connection.scalar(  # noqa: ASYNC110 - another process holds it
            text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK}
        ):
            await asyncio.sleep(_PATIENCE)
        yield


def run(*metadata: MetaData) -> None:
    """What an `env.py` does: run the migrations for the database given, or else for DATABASE_URL.

    Args:
        *metadata: of the application's tables; ours are added, for `alembic check` and `--autogenerate`.
    """
    given = context.config.attributes.get("database")
    if isinstance(given, DatabaseConfig):
        _run(given, metadata)
        return
    try:
        _run(load(DatabaseConfig), metadata)
    except LedgerqError as error:
        sys.exit(f"alembic: {error}")


def _run(config: DatabaseConfig, metadata: Sequence[MetaData]) -> None:
    if context.is_offline_mode():
        _migrate(None, config, metadata)
    else:
        asyncio.run(_migrate_online(config, metadata))


def _as_plain_type(kind: str, value: object, _context: object) -> str | Literal[False]:
    """Write a column's type into a migration as plain SQLAlchemy: a migration must not change with us."""
    if kind == "type" and isinstance(value, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    if kind == "type" and isinstance(value, AutoString):
        return f"sa.String({value.length})"
    return False


def _in_one(*metadata: MetaData) -> MetaData:
    """All tables: Alembic names a migration's constraints by the convention of one metadata."""
    merged = MetaData(naming_convention=NAMING_CONVENTION)
    for each in metadata:
        for table in each.sorted_tables:
            table.to_metadata(merged)
    return merged


def _migrate(
    connection: Connection | None, config: DatabaseConfig, metadata: Sequence[MetaData]
) -> None:
    context.configure(
        connection=connection,
        url=None if connection else config.url,
        literal_binds=connection is None,
        dialect_opts={"paramstyle": "named"},
        target_metadata=_in_one(*metadata, METADATA),
        render_item=_as_plain_type,
        render_as_batch=config.is_sqlite,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


async def _migrate_online(config: DatabaseConfig, metadata: Sequence[MetaData]) -> None:
    if config.target.pgbouncer:  # its connections are not ours: no lock of a session, no timeouts
        raise SettingError(
            "DATABASE_URL", "goes through pgbouncer", "migrate by the server's own URL"
        )
    patient = config.model_copy(update={"statement_timeout": _HOURS, "lock_timeout": 3})
    engine = build_engine(patient, poolclass=pool.NullPool)
    try:
        with unreachable(config):
            async with engine.connect():
                pass
        writing = engine.execution_options(**{WRITES: True})  # on SQLite: wait for the other one
        async with one_at_a_time(engine), writing.connect() as connection:
            await connection.run_sync(_migrate, config, metadata)
    finally:
        await engine.dispose()
