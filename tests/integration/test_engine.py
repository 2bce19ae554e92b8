"""The engine: what it tells the server, and what it does to SQLite."""

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL

from db.database import open_database
from db.models import Project
from ledgerq.database.engine import Database, Sessions
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.transaction import transaction
from ledgerq.errors import LockTimeout, Unavailable, Unreachable
from tests.support import count, new_project


async def setting(database: Database, name: str) -> str:
    async with database.sessions() as session:
        value = await session.scalar(text(f"SHOW {name}"))
        return str(value)


async def test_timeouts_and_the_name_reach_the_server(postgresql_url: URL) -> None:
    """Every connection of the pool has them."""
    config = DatabaseConfig(
        url=postgresql_url,
        statement_timeout=12,
        lock_timeout=3,
        idle_in_transaction_timeout=4,
        application_name="crm",
    )
    async with open_database(config) as database:
        assert await setting(database, "statement_timeout") == "12s"
        assert await setting(database, "lock_timeout") == "3s"
        assert await setting(database, "idle_in_transaction_session_timeout") == "4s"
        assert await setting(database, "application_name") == "crm"


async def test_the_urls_own_settings_win(postgresql_url: URL) -> None:
    """Who writes them into the URL means them."""
    url = postgresql_url.update_query_dict(
        {"application_name": "from-url", "options": "-c geqo=off -c work_mem=5MB"}
    )
    async with open_database(DatabaseConfig(url=url)) as database:
        assert await setting(database, "application_name") == "from-url"
        assert await setting(database, "work_mem") == "5MB"
        assert await setting(database, "geqo") == "off"


async def test_the_pool_is_as_large_as_said(postgresql_url: URL) -> None:
    """The third connection of a pool of one and an overflow of one waits in vain."""
    config = DatabaseConfig(url=postgresql_url, pool_size=1, max_overflow=1, pool_timeout=0.1)
    async with open_database(config) as database:
        async with database.engine.connect(), database.engine.connect():
            with pytest.raises(Unreachable, match="DATABASE_URL"):
                await database.ping()
        await database.ping()


async def test_pre_ping_replaces_a_dead_connection(postgresql_url: URL) -> None:
    """With it, the first statement after the loss does not fail."""
    async with open_database(DatabaseConfig(url=postgresql_url, pre_ping=True)) as database:
        async with database.sessions() as session:
            pid = await session.scalar(text("SELECT pg_backend_pid()"))
        async with open_database(DatabaseConfig(url=postgresql_url)) as other:
            await end_backend(other, pid)
        assert await count(database.sessions, Project) == 0


async def end_backend(database: Database, pid: int | None) -> None:
    async with database.sessions() as session:
        await session.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        while await session.scalar(
            text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid"), {"pid": pid}
        ):
            await session.rollback()


async def test_behind_pgbouncer_no_prepared_statement_is_kept(postgresql_url: URL) -> None:
    """In transaction pooling the next transaction may meet a connection that knows none."""
    url = postgresql_url.update_query_dict({"pgbouncer": "true"})
    async with open_database(DatabaseConfig(url=url)) as database:
        async with database.sessions() as session:
            for _ in range(3):
                await session.execute(text("SELECT CAST(:n AS int)").bindparams(n=1))
            kept = await session.execute(text("SELECT name FROM pg_prepared_statements"))
            assert len(kept.all()) <= 1  # the one that asks
        assert await new_project(database.sessions)
        assert await setting(database, "statement_timeout") == "0"


async def test_sqlite_holds_foreign_keys_and_lets_readers_read(sqlite_url: URL) -> None:
    """While one transaction writes, others read what was; a second writer waits its turn."""
    async with open_database(DatabaseConfig(url=sqlite_url)) as database:
        sessions = database.sessions
        async with sessions() as session:
            assert await session.scalar(text("PRAGMA foreign_keys")) == 1
            assert await session.scalar(text("PRAGMA journal_mode")) == "wal"
        wrote = asyncio.Event()

        async def second() -> int:
            await wrote.wait()
            return await new_project(sessions, "second")

        task = asyncio.create_task(second())
        async with transaction(sessions) as writer:
            writer.add(Project(name="first"))
            await writer.flush()
            wrote.set()
            assert await count(sessions, Project) == 0
        assert await task
        assert await count(sessions, Project) == 2


async def test_sqlites_busy_writer_is_a_lock_timeout(sessions: Sessions, sqlite_url: URL) -> None:
    """The same error as PostgreSQL's lock_timeout."""
    async with open_database(DatabaseConfig(url=sqlite_url)) as database:

        async def impatient() -> None:
            async with database.sessions() as session:
                await session.execute(text("PRAGMA busy_timeout = 1"))
            await new_project(database.sessions)

        async with transaction(database.sessions) as writer:
            writer.add(Project(name="x"))
            await writer.flush()
            with pytest.raises(LockTimeout):
                await impatient()


async def test_a_connection_to_a_server_that_became_read_only_is_not_used_again(
    postgresql_url: URL,
) -> None:
    """The first write fails, and the next one has a new connection; a ping sees it too."""
    read_only = text("SET default_transaction_read_only = on")  # as after its server was demoted
    async with open_database(DatabaseConfig(url=postgresql_url)) as database:
        for use in ("write", "ping"):
            async with database.engine.connect() as connection:
                await connection.execute(read_only)
                await connection.commit()
            with pytest.raises((Unavailable, Unreachable)):
                if use == "ping":
                    await database.ping()
                else:
                    await new_project(database.sessions)
            assert await new_project(database.sessions)
