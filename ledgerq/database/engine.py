"""Builds the engine; no other module does. A process makes one `Database` and keeps it to its end."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from asyncpg import PostgresError
from pydantic_core import from_json
from sqlalchemy import URL, Engine, MetaData, text
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
        """The rules of each audited class: see ledgerq.store.audit_rules."""

    def listen(self, engine: Engine) -> None:
        """Refuse statements over this engine's connections that would change an audited row without an entry."""


@dataclass(frozen=True, slots=True)
class Tables:
    """An application's own tables, and the schema of ledgerq's tables.

    Args:
        metadata: the SQLAlchemy metadata of the application's tables.
        migrations: the folder of the Alembic migrations that make these tables; None if there is none.
        schema: the PostgreSQL schema in which ledgerq's tables stand. On SQLite there is one schema for all.
        recorder: writes the audit entries of audited classes; None if no class is audited.

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
        """Check that the server answers and is not read-only.

        Raises:
            Unreachable: the server does not answer, or is read-only; the text shows no password.
            SettingError: the server refuses the user, the password or the database.
        """
        asked = "SELECT 'off'" if self.config.is_sqlite else "SHOW transaction_read_only"
        with unreachable(self.config):
            async with self.engine.connect() as connection:
                read_only = await connection.scalar(text(asked)) == "on"
                if read_only:
                    await connection.invalidate()  # a new connection may reach the new primary
        if read_only:
            raise Unreachable("DATABASE_URL", self.config.address, "it is read-only")

    async def dispose(self) -> None:
        """Close every connection, at the end of the process."""
        await self.engine.dispose()


def build_database(
    config: DatabaseConfig, tables: Tables = NO_TABLES, *, pooled: bool = True
) -> Database:
    """Make the engine and the session factory; opens no connection. `pooled=False` closes each connection after use."""
    know(tables.metadata)
    pool: dict[str, Any] = {} if pooled else {"poolclass": NullPool}
    if pooled and not config.is_sqlite:
        pool = _pool(config)
    engine = build_engine(config, tables.schema, **pool)
    if tables.recorder:
        tables.recorder.listen(engine.sync_engine)
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
    """A database whose connections are closed when the block ends. Opens no connection yet.

    Args:
        where: its URL, or settings; None reads `DATABASE_URL` and `LEDGERQ_DB_…` from the environment.
        tables: the application's tables: `App.tables`.

    Raises:
        SettingError: the URL is not one of a database, or is missing.

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
    """Make an engine without sessions. `pool` are SQLAlchemy's options for its pool: migrations pass `NullPool`."""
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
    """The value of JSON text; the text itself if Python can't read it.

    PostgreSQL stores numbers of thousands of digits and values nested a thousand deep. Rows with them must be readable.
    """
    try:
        return from_json(text)
    except ValueError:
        return text


@contextmanager
def unreachable(config: DatabaseConfig) -> Iterator[None]:
    """For a block that connects: an error of it becomes `Unreachable`, or `SettingError` if the server refuses the login."""
    try:
        yield
    except (SQLAlchemyError, OSError, PostgresError, ValueError, OverflowError) as error:
        state = sqlstate(error) or getattr(error, "sqlstate", None)
        refused = _REFUSALS.get(state or "") or _REFUSALS.get((state or "")[:2])
        if refused:
            raise SettingError("DATABASE_URL", first_line(error), refused) from error
        raise Unreachable("DATABASE_URL", config.address, first_line(error)) from error


# SQLSTATE → cure, where the server refuses us. https://www.postgresql.org/docs/current/errcodes-appendix.html
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
        # the server itself ends a long statement; this timeout is for a server that does not answer
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
        "default_transaction_isolation": "read committed",  # insert_receipt of ledgerq.store.inbox needs it
        **{name: str(int(seconds * 1000)) for name, seconds in timeouts.items()},
        **config.target.server_settings,
    }
    return arguments


# With transaction pooling, the next transaction may get another server connection, whose prepared
# statements differ: so none is kept, and no name is used twice. pgbouncer refuses startup parameters
# by default: give the role its timeouts with ALTER ROLE … SET instead.
# https://docs.sqlalchemy.org/en/21/dialects/postgresql.html#prepared-statement-name-with-pgbouncer
_BEHIND_PGBOUNCER = {
    "prepared_statement_cache_size": 0,
    "statement_cache_size": 0,
    "prepared_statement_name_func": lambda: f"__ledgerq_{uuid4()}__",
}
