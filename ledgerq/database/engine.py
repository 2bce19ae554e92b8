"""The only place that builds an engine. One `Database` lives as long as the process that uses it."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from asyncpg import PostgresError
from pydantic_core import from_json
from sqlalchemy import URL, MetaData, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool

from ledgerq.database.fenced_connection import FencedConnection, put_up_fences
from ledgerq.database.own_schema import SCHEMA, checked_schema, schema_options
from ledgerq.database.session import LedgerqSession, SyncSession
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.sqlite import teach_sqlite
from ledgerq.database.sqlstate import know, sqlstate
from ledgerq.errors import SettingError, Unreachable
from ledgerq.settings import load
from ledgerq.text import first_line

Sessions = async_sessionmaker[LedgerqSession]


class Recorder(Protocol):
    """Writes the audit entries of a flush: see ledgerq.store.audited."""

    session_class: type[SyncSession]

    @property
    def rules(self) -> Mapping[type[Any], Any]:
        """By class: see ledgerq.store.audit_rules."""


@dataclass(frozen=True, slots=True)
class Tables:
    """An application's own tables, and where those of ledgerq stand.

    Args:
        metadata: of the application's tables.
        migrations: the folder of Alembic migrations that makes them.
        schema: the PostgreSQL schema in which ledgerq's tables stand. On SQLite there is one schema for all.
        recorder: writes the entries of the classes that are audited.

    Raises:
        SettingError: the schema is no plain identifier.
    """

    metadata: tuple[MetaData, ...] = ()
    migrations: Path | None = None
    schema: str = SCHEMA
    recorder: Recorder | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        checked_schema(self.schema)


NO_TABLES = Tables()


@dataclass(frozen=True, slots=True)
class Database:
    """An engine, the sessions on it, and the tables of the application that uses them.

    ```python
    async with open_database() as database:  # from DATABASE_URL
        await database.ping()
        async with transaction(database.sessions) as session:
            session.add(order)
    ```
    """

    config: DatabaseConfig
    engine: AsyncEngine
    sessions: Sessions
    tables: Tables

    async def ping(self) -> None:
        """Ask the server whether it answers and takes writes.

        Raises:
            Unreachable: it does not; the text names the setting and the address, not the password.
        """
        asked = "SELECT 'off'" if self.config.is_sqlite else "SHOW transaction_read_only"
        with unreachable(self.config):
            async with self.engine.connect() as connection:
                read_only = await connection.scalar(text(asked)) == "on"
                if read_only:
                    await connection.invalidate()  # a new one may find the server that took over
        if read_only:
            raise Unreachable("DATABASE_URL", self.config.address, "it is read-only")

    async def dispose(self) -> None:
        """Close every connection. The last act of the process that built it."""
        await self.engine.dispose()


def build_database(
    config: DatabaseConfig, tables: Tables = NO_TABLES, *, pooled: bool = True
) -> Database:
    """Make the engine; no connection is opened yet. If it is not `pooled`, none stays open after its use."""
    know(tables.metadata)
    pool: dict[str, Any] = {} if pooled else {"poolclass": NullPool}
    if pooled and not config.is_sqlite:
        pool = _pool(config)
    engine = build_engine(config, tables.schema, **pool)
    sessions = async_sessionmaker(
        engine,
        class_=LedgerqSession,
        sync_session_class=tables.recorder.session_class if tables.recorder else SyncSession,
        expire_on_commit=False,
        idle_limit=0 if config.is_sqlite else config.idle_in_transaction_timeout,
    )
    return Database(config, engine, sessions, tables)


@asynccontextmanager
async def open_database(
    where: DatabaseConfig | URL | str | None = None, tables: Tables = NO_TABLES
) -> AsyncIterator[Database]:
    """A database for the length of the block.

    Args:
        where: its URL, or settings; without either, `DATABASE_URL` and `LEDGERQ_DB_…` of the environment.
        tables: of the application, as `App.tables` has them.

    Raises:
        SettingError: the URL is no such URL, or there is none.

    ```python
    async with open_database(tables=app.tables) as database, database.sessions() as session:
        orders = (await session.exec(select(Order))).all()
    ```
    """
    if not isinstance(where, DatabaseConfig):
        where = load(DatabaseConfig) if where is None else load(DatabaseConfig, url=where)
    database = build_database(where, tables)
    try:
        yield database
    finally:
        await database.dispose()


def build_engine(config: DatabaseConfig, schema: str = SCHEMA, **pool: Any) -> AsyncEngine:
    """The engine alone, with a pool of the caller's choice: migrations want none."""
    options = schema_options(on_sqlite=config.is_sqlite, schema=schema)
    if config.is_sqlite:
        engine = create_async_engine(
            config.url,
            echo=config.echo,
            hide_parameters=True,
            connect_args={"timeout": 30},
            execution_options=options,
            **pool,
        )
        teach_sqlite(engine)
        put_up_fences(engine)
        return engine
    engine = create_async_engine(
        config.url,
        echo=config.echo,
        hide_parameters=True,
        json_deserializer=_from_json,
        connect_args=_connect_args(config),
        execution_options=options,
        **pool,
    )
    put_up_fences(engine)
    return engine


def _from_json(text: str) -> Any:
    """What JSON says, or the text itself if it is such as PostgreSQL can hold and Python can't.

    Numbers of thousands of digits, values nested a thousand deep: a row of them must be readable.
    """
    try:
        return from_json(text)
    except ValueError:
        return text


@contextmanager
def unreachable(config: DatabaseConfig) -> Iterator[None]:
    """Turn a failure to connect inside the block into the `Unreachable` that names the setting."""
    try:
        yield
    except (SQLAlchemyError, OSError, PostgresError, ValueError, OverflowError) as error:
        state = sqlstate(error) or getattr(error, "sqlstate", None)
        refused = _REFUSALS.get(state or "") or _REFUSALS.get((state or "")[:2])
        if refused:
            raise SettingError("DATABASE_URL", first_line(error), refused) from error
        raise Unreachable("DATABASE_URL", config.address, first_line(error)) from error


# By SQLSTATE: the server answered, and said no. https://www.postgresql.org/docs/current/errcodes-appendix.html
_REFUSALS = {
    "28": "correct the user or the password",
    "3D000": "create that database, or name another",
    "42501": "grant the role what it lacks",
}


def _pool(config: DatabaseConfig) -> dict[str, Any]:
    if config.target.pgbouncer:
        return {"poolclass": NullPool}  # pgbouncer is the pool
    return {
        "pool_size": config.pool_size,
        "max_overflow": config.max_overflow,
        "pool_timeout": config.pool_timeout,
        "pool_recycle": config.pool_recycle,
        "pool_use_lifo": config.pool_lifo,
        "pool_pre_ping": config.pre_ping,
    }


def _connect_args(config: DatabaseConfig) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "connection_class": FencedConnection,
        "timeout": config.connect_timeout,
        # the server ends a long statement; this is for a server that no longer answers
        "command_timeout": config.statement_timeout + 10,
        **config.target.connect_args,
    }
    if config.target.pgbouncer:
        return {**arguments, **_BEHIND_PGBOUNCER}
    timeouts = {
        "statement_timeout": config.statement_timeout,
        "lock_timeout": config.lock_timeout,
        "idle_in_transaction_session_timeout": config.idle_in_transaction_timeout,
    }
    arguments["server_settings"] = {
        "application_name": config.application_name,
        "default_transaction_isolation": "read committed",  # whatever the role has: see ledgerq.store.inbox
        **{name: str(int(seconds * 1000)) for name, seconds in timeouts.items()},
        **config.target.server_settings,
    }
    return arguments


# In transaction pooling the next transaction may meet another server connection, which knows a
# prepared statement of that name or does not: so none is kept, and no name comes twice. Startup
# parameters are refused by default: give the role its timeouts with ALTER ROLE … SET instead.
# https://docs.sqlalchemy.org/en/21/dialects/postgresql.html#prepared-statement-name-with-pgbouncer
_BEHIND_PGBOUNCER = {
    "prepared_statement_cache_size": 0,
    "statement_cache_size": 0,
    "prepared_statement_name_func": lambda: f"__ledgerq_{uuid4()}__",
}
