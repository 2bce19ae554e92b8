"""The migrations: up, down, up again, and nothing that the models do not know."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import inspect
from sqlalchemy.engine import URL

from db.config import DatabaseConfig
from db.engine import open_database
from db.errors import SchemaBehind
from db.models import Base
from db.schema import alembic_config, current_revision, head_revision, migrate, require_current

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["postgresql", "sqlite"])
def empty(
    request: pytest.FixtureRequest, empty_postgresql_url: URL, tmp_path: Path
) -> DatabaseConfig:
    """An empty database of either sort."""
    on_sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/empty.sqlite3" if on_sqlite else empty_postgresql_url
    return DatabaseConfig(url=url)


def tables(config: DatabaseConfig) -> set[str]:
    async def names() -> set[str]:
        async with open_database(config) as database, database.engine.connect() as connection:
            return set(await connection.run_sync(lambda c: inspect(c).get_table_names()))

    return asyncio.run(names())


def test_up_down_and_up_again(empty: DatabaseConfig) -> None:
    """From empty to head, back to empty, and forward once more."""
    alembic = alembic_config(empty)
    expected = {table.name for table in Base.metadata.sorted_tables} | {"alembic_version"}
    command.upgrade(alembic, "head")
    assert tables(empty) == expected
    command.downgrade(alembic, "base")
    assert tables(empty) == {"alembic_version"}
    command.upgrade(alembic, "head")
    assert tables(empty) == expected


def test_there_is_no_drift(empty: DatabaseConfig) -> None:
    """What `alembic check` finds between the migrations and the models: nothing."""
    migrate(empty)
    command.check(alembic_config(empty))


def test_plain_alembic_does_the_same(empty: DatabaseConfig) -> None:
    """`alembic upgrade head` with DATABASE_URL is `ledgerq migrate`."""
    url = empty.url.render_as_string(hide_password=False)
    subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "head"],
        cwd=ROOT,
        env={"DATABASE_URL": url, "PATH": ""},
        check=True,
        capture_output=True,
    )
    migrate(empty)
    command.check(alembic_config(empty))


async def test_a_schema_that_is_behind_is_refused(empty: DatabaseConfig) -> None:
    """With the revision found, the one needed, and the command that mends it."""
    async with open_database(empty) as database:
        with pytest.raises(SchemaBehind, match="run: ledgerq migrate"):
            await require_current(database)
        await asyncio.to_thread(migrate, empty)
        await require_current(database)
        assert await current_revision(database) == head_revision()
