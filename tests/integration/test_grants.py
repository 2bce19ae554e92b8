"""What a role lacks is named with the statement that mends it; who keeps a table to himself is named too."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL

from db.database import build_database
from ledgerq.admin import health
from ledgerq.config import Config
from ledgerq.database.engine import Database
from ledgerq.database.settings import DatabaseConfig
from ledgerq.errors import SettingError
from ledgerq.store.grants import lasting_locks, missing_grants, read_only, require_grants
from tests.acceptance import forked
from tests.support import own

LIMITED = own("limited")
BOTH = "SCHEMA public, ledgerq"
TABLES = f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN {BOTH} TO {LIMITED}"


@pytest.fixture
async def limited(database: Database, postgresql_url: URL) -> AsyncIterator[Database]:
    """The same database, as a role that may do all but a few things."""
    await _run(database, f"CREATE ROLE {LIMITED} LOGIN PASSWORD 'x'", TABLES,
               f"GRANT USAGE ON ALL SEQUENCES IN {BOTH} TO {LIMITED}",
               f"GRANT USAGE ON SCHEMA ledgerq TO {LIMITED}")  # fmt: skip
    built = build_database(DatabaseConfig(url=postgresql_url.set(username=LIMITED, password="x")))
    yield built
    await built.dispose()
    await _run(database, f"DROP OWNED BY {LIMITED}", f"DROP ROLE {LIMITED}")


async def _run(database: Database, *statements: str) -> None:
    async with database.engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


async def test_a_missing_grant_is_named_with_its_cure(
    database: Database, limited: Database, config: Config
) -> None:
    """Table, privilege and GRANT; once it is run, all is well. The audit log needs no UPDATE."""
    await require_grants(limited)
    await _run(database, f"REVOKE UPDATE ON ledgerq.audit_log FROM {LIMITED}")
    await require_grants(limited)
    await _run(
        database,
        f"REVOKE INSERT, DELETE ON ledgerq.processed_job FROM {LIMITED}",
        f"REVOKE USAGE ON ALL SEQUENCES IN {BOTH} FROM {LIMITED}",
    )
    with pytest.raises(
        SettingError, match=f"role {LIMITED} lacks INSERT, DELETE on ledgerq.processed_job"
    ):
        await require_grants(limited)
    checks = {c.name: c for c in await health.check(Config(config.worker, limited.config))}
    assert not checks["grants"].ok
    assert (
        f'GRANT INSERT, DELETE ON ledgerq.processed_job TO "{LIMITED}"' in checks["grants"].detail
    )
    await _run(database, *(each.cure for each in await missing_grants(limited)))
    await require_grants(limited)


async def test_who_keeps_a_table_to_himself_is_named(
    database: Database, limited: Database, monkeypatch: pytest.MonkeyPatch, config: Config
) -> None:
    """As a note; a lock that has just been taken is none."""
    async with database.engine.connect() as other:
        await other.execute(text("SET application_name = 'nightly report'"))
        await other.execute(text("LOCK TABLE ledgerq.processed_job IN ACCESS EXCLUSIVE MODE"))
        assert await lasting_locks(limited) == []
        monkeypatch.setattr("ledgerq.store.grants.LASTING", 0.0)
        (lock,) = await lasting_locks(database)
        assert (lock.application, lock.table, lock.mode) == (
            "nightly report",
            "processed_job",
            "AccessExclusiveLock",
        )
        (note,) = [each for each in await health.check(config) if each.name == "locks"]
        assert (note.ok, note.warn) == (True, True)
        assert "nightly report" in note.detail


async def test_a_read_only_database_is_seen(database: Database, config: Config) -> None:
    """As after a failover, or made so by an administrator."""
    assert not await read_only(database)
    name = database.config.url.database
    await _run(database, f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    checks = {each.name: each for each in await health.check(config)}
    assert not checks["database"].ok
    assert "read-only" in checks["database"].detail


async def test_sqlite_has_neither_roles_nor_such_locks(sqlite_url: URL) -> None:
    """Nothing to ask."""
    built = build_database(DatabaseConfig(url=sqlite_url))
    assert (await missing_grants(built), await lasting_locks(built)) == ([], [])
    await require_grants(built)
    await built.dispose()


async def test_a_command_names_the_setting_and_the_cure(
    database: Database, limited: Database
) -> None:
    """Of a role that lacks a grant, and without its password."""
    await _run(database, f"REVOKE SELECT ON ledgerq.audit_log FROM {LIMITED}")  # noqa: S608 - our own role
    url = limited.config.url.render_as_string(hide_password=False)
    ran = await asyncio.to_thread(
        forked.run,
        ("-m", "ledgerq", "audit", "--job", "x"),
        env={**os.environ, "DATABASE_URL": url},
        cwd=Path.cwd(),
        seconds=60,
    )
    assert ran.returncode == 1
    said = "ledgerq: DATABASE_URL: permission denied for table audit_log; grant that to the role"
    assert ran.stderr.startswith(said), ran.stderr
    assert len(ran.stderr.splitlines()) == 1
