"""`ledgerq migrate`: runs the application's own Alembic history, then the versions that ledgerq's tables lack.

The history runs first because it may upgrade ledgerq's tables itself, or adopt those of version 0.1.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Lock

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, pool, text
from sqlalchemy.ext.asyncio import AsyncEngine

from ledgerq.database.engine import Tables, build_engine, unreachable
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.sqlite import WRITES
from ledgerq.database.sqlstate import translated
from ledgerq.errors import LockTimeout, MigrationFailed, SettingError
from ledgerq.store.schema import alembic_config, bring_up
from ledgerq.store.versions import NEWEST, upgrading

_HOURS = 4 * 3600.0  # seconds that one statement of a migration may take: a large index takes long
_LOCK = 0x6C65646765727121  # "ledgerq!": pg_advisory_lock takes a 64-bit number
_PATIENCE = 0.2  # seconds between two tries to take the lock
_ALEMBIC = (
    Lock()
)  # its context is one for the process: of two threads, one would migrate the other's database


def migrate(
    config: DatabaseConfig, tables: Tables, revision: str = "head", *, ini: Path | None = None
) -> None:
    """Bring the database up to date. Blocks; must not be called on a running event loop.

    A migration waits for a lock on a table for 3 s at most, since readers queue up behind it meanwhile. Then it lets
    them pass and tries again, five times in all.

    Args:
        config: the database.
        tables: the application's tables: its folder of migrations, and the schema of ledgerq's tables.
        revision: the revision of the application's history to go to. ledgerq's tables are upgraded only with `head`.
        ini: the application's alembic.ini; None takes the history in `tables.migrations`.

    Raises:
        LockTimeout: no try got the lock.
        MigrationFailed: there is no such revision, or no path to it; or tables of 0.1 must be adopted first.
        Unreachable: the database does not answer.
    """
    history = _history(config, tables, ini, revision)
    if history is not None:
        _patiently(lambda: command.upgrade(history, revision))
    if revision == "head":  # a later revision may itself upgrade or adopt ledgerq's tables
        _patiently(lambda: asyncio.run(_bring_up(config, tables.schema)))


def print_sql(config: DatabaseConfig, tables: Tables, *, ini: Path | None = None) -> None:
    """Print the SQL that `migrate` runs on an empty database. The part for ledgerq's tables may be run again without harm.

    Raises:
        MigrationFailed: as for `migrate`.
    """
    history = _history(config, tables, ini)
    if history is not None:
        _named_failures(lambda: command.upgrade(history, "head", sql=True))
    dialect = "sqlite" if config.is_sqlite else "postgresql"
    lines = [f"{each};\n" for each in upgrading(dialect, 0, NEWEST, tables.schema)]
    sys.stdout.write("\n".join(["BEGIN;\n", *lines, "COMMIT;\n"]))


@asynccontextmanager
async def migration_engine(config: DatabaseConfig) -> AsyncIterator[AsyncEngine]:
    """An engine for migrations: no pool, 3 s for a lock, 4 h for a statement; on SQLite it takes the write lock at BEGIN.

    Raises:
        SettingError: the URL goes through pgbouncer.
        Unreachable: the database does not answer.
    """
    if config.target.pgbouncer:  # a session's lock and timeouts don't hold on shared connections
        raise SettingError(
            "DATABASE_URL", "goes through pgbouncer", "migrate by the server's own URL"
        )
    patient = config.model_copy(update={"statement_timeout": _HOURS, "lock_timeout": 3})
    engine = build_engine(patient, poolclass=pool.NullPool)
    try:
        with unreachable(config):
            async with engine.connect():
                pass
        yield engine.execution_options(**{WRITES: True})  # on SQLite: wait for other writers
    finally:
        await engine.dispose()


@asynccontextmanager
async def one_at_a_time(engine: AsyncEngine) -> AsyncIterator[None]:
    """Let one deploy at a time into the block; the others wait, without limit, and then have their turn.

    The lock is polled. A statement that waits for it would hold a snapshot, and a CREATE INDEX CONCURRENTLY of the
    first deploy would wait for that snapshot. PostgreSQL frees the lock when its session ends, so a deploy that is
    killed does not keep it. On SQLite no lock is needed: each transaction begins as a writer.
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


async def _bring_up(config: DatabaseConfig, schema: str) -> None:
    async with (
        migration_engine(config) as engine,
        one_at_a_time(engine),
        engine.connect() as connection,
    ):
        await connection.run_sync(_each_in_a_transaction, schema)


def _each_in_a_transaction(connection: Connection, schema: str) -> None:
    for version in range(1, NEWEST + 1):
        with connection.begin():
            bring_up(connection, schema, version)


def _history(
    config: DatabaseConfig, tables: Tables, ini: Path | None, revision: str = "head"
) -> Config | None:
    if ini is None:
        if tables.migrations is None and revision == "head":
            return None
        return alembic_config(tables, config)
    alembic = Config(str(ini))
    alembic.attributes["database"] = config
    return alembic


def _patiently(work: Callable[[], None]) -> None:
    for pause in (1, 2, 4, 8, None):
        try:
            with translated():
                _named_failures(work)
        except LockTimeout:
            if pause is None:
                raise
            time.sleep(pause)
        else:
            return


def _named_failures(work: Callable[[], None]) -> None:
    try:
        with _ALEMBIC:
            work()
    except CommandError as error:
        raise MigrationFailed(f"alembic: {error}") from error
