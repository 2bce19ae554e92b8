"""`ledgerq migrate`: the application's own Alembic history first, then the versions of ledgerq's tables that lack.

The history goes first because it may bring ledgerq's tables up itself, or adopt those of version 0.1.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

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
_PATIENCE = 0.2  # seconds between two looks at the lock


def migrate(
    config: DatabaseConfig, tables: Tables, revision: str = "head", *, ini: Path | None = None
) -> None:
    """Bring the database up to date. Blocks; must not be called on a running event loop.

    A migration waits 3 s at most for a lock, so that it never keeps a queue of readers waiting
    behind it; then it lets them pass and tries again.

    Args:
        config: the database.
        tables: of the application: their migrations, and where those of ledgerq stand.
        revision: of the application's own history, how far to go; ledgerq's tables are brought up at its end only.
        ini: the application's alembic.ini, where its history is not `tables.migrations`.

    Raises:
        LockTimeout: the lock was not to be had in any of the tries.
        MigrationFailed: there is no such revision, or no way to it; or tables of 0.1 must be adopted first.
        Unreachable: the database does not answer.
    """
    history = _history(config, tables, ini, revision)
    if history is not None:
        _patiently(lambda: command.upgrade(history, revision))
    if revision == "head":  # a history that is not complete may yet bring them up, or adopt them
        _patiently(lambda: asyncio.run(_bring_up(config, tables.schema)))


def print_sql(config: DatabaseConfig, tables: Tables, *, ini: Path | None = None) -> None:
    """Print what `migrate` would run on an empty database; the part that is ledgerq's can be run again without harm.

    Raises:
        MigrationFailed: as `migrate`.
    """
    history = _history(config, tables, ini)
    if history is not None:
        _named_failures(lambda: command.upgrade(history, "head", sql=True))
    dialect = "sqlite" if config.is_sqlite else "postgresql"
    lines = [f"{each};\n" for each in upgrading(dialect, 0, NEWEST, tables.schema)]
    sys.stdout.write("\n".join(["BEGIN;\n", *lines, "COMMIT;\n"]))


@asynccontextmanager
async def migration_engine(config: DatabaseConfig) -> AsyncIterator[AsyncEngine]:
    """An engine without a pool that waits 3 s for a lock, and hours for a statement; on SQLite, one that writes.

    Raises:
        SettingError: the URL goes through pgbouncer.
        Unreachable: the database does not answer.
    """
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
        yield engine.execution_options(**{WRITES: True})  # on SQLite: wait for the other one
    finally:
        await engine.dispose()


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
        work()
    except CommandError as error:
        raise MigrationFailed(f"alembic: {error}") from error
