"""The only place that builds an engine. One `Database` lives as long as the process that uses it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from asyncpg import PostgresError
from sqlalchemy import event, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from db.config import DatabaseConfig
from db.errors import Unreachable

Sessions = async_sessionmaker[AsyncSession]


@dataclass(frozen=True, slots=True)
class Database:
    """An engine and the sessions on it."""

    config: DatabaseConfig
    engine: AsyncEngine
    sessions: Sessions

    async def ping(self) -> None:
        """Ask the server for a sign of life.

        Raises:
            Unreachable: it gives none; the text names the setting and the address, not the password.
        """
        with unreachable(self.config):
            async with self.engine.connect() as connection:
                await connection.execute(text("SELECT 1"))

    async def dispose(self) -> None:
        """Close every connection. The last act of the process that built it."""
        await self.engine.dispose()


def build_database(config: DatabaseConfig) -> Database:
    """Make the engine; no connection is opened yet."""
    options = _sqlite_options() if config.is_sqlite else _postgresql_options(config)
    engine = create_async_engine(config.url, echo=config.echo, hide_parameters=True, **options)
    if config.is_sqlite:
        _teach_sqlite(engine)
    return Database(config, engine, async_sessionmaker(engine, expire_on_commit=False))


@asynccontextmanager
async def open_database(config: DatabaseConfig) -> AsyncIterator[Database]:
    """A database for the length of the block."""
    database = build_database(config)
    try:
        yield database
    finally:
        await database.dispose()


@contextmanager
def unreachable(config: DatabaseConfig) -> Iterator[None]:
    """Turn a failure to connect inside the block into the `Unreachable` that names the setting."""
    try:
        yield
    except (SQLAlchemyError, OSError, TimeoutError, PostgresError) as error:
        raise Unreachable("DATABASE_URL", config.address, _reason(error)) from error


def _postgresql_options(config: DatabaseConfig) -> dict[str, Any]:
    return {
        "pool_size": config.pool_size,
        "max_overflow": 0,
        "pool_timeout": config.pool_timeout,
        "pool_recycle": config.pool_recycle,
        "pool_use_lifo": True,  # idle connections age out instead of being kept warm in turn
        "connect_args": {
            "timeout": config.connect_timeout,
            # the server ends a long statement; this is for a server that no longer answers
            "command_timeout": config.statement_timeout + 10,
            "server_settings": {
                "application_name": config.application_name,
                "statement_timeout": _milliseconds(config.statement_timeout),
                "lock_timeout": _milliseconds(config.lock_timeout),
                "idle_in_transaction_session_timeout": _milliseconds(
                    config.idle_in_transaction_timeout
                ),
            },
        },
    }


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))


def _sqlite_options() -> dict[str, Any]:
    return {"connect_args": {"timeout": 30}}  # how long a writer waits for the other one


def _teach_sqlite(engine: AsyncEngine) -> None:
    """Foreign keys on, readers beside one writer, and transactions that we begin ourselves."""

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # or the driver begins, later than we think
        cursor = connection.cursor()
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Any) -> None:
        # a reader that turns writer under a deferred BEGIN fails at once instead of waiting
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    @event.listens_for(engine.sync_engine, "invalidate")
    def roll_back(connection: Any, _record: Any, _error: BaseException | None) -> None:
        # a cancelled statement may live on in its cursor, and with it, through the close that
        # follows, the write lock; the connection's thread takes this rollback first
        with suppress(RuntimeError):  # no loop, no cancellation
            _keep(asyncio.get_running_loop().create_task(connection.driver_connection.rollback()))


_kept: set[asyncio.Task[None]] = set()


def _keep(task: asyncio.Task[None]) -> None:
    """Hold on to a task until it is done: the loop itself does not."""
    _kept.add(task)
    task.add_done_callback(_kept.discard)


def _reason(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    return str(cause).splitlines()[0] if str(cause) else type(cause).__name__
