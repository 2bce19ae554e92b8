"""The migrations: up, down, up again, and nothing that the models do not know."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import inspect, text
from sqlalchemy.engine import URL

from db.database import open_database
from db.models import Base
from db.schema import alembic_config, create_db_and_tables, head_revision, migrate
from ledgerq.database.engine import Database
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.transaction import transaction
from ledgerq.errors import SchemaBehind
from ledgerq.store.schema import current_revision, require_current
from ledgerq.tables import METADATA
from tests.acceptance import forked
from tests.support import eventually

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["postgresql", "sqlite"])
def empty(
    request: pytest.FixtureRequest, empty_postgresql_url: URL, tmp_path: Path
) -> DatabaseConfig:
    """An empty database of either sort."""
    on_sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/empty.sqlite3" if on_sqlite else empty_postgresql_url
    return DatabaseConfig(url=url)


@pytest.fixture
def empty_postgresql(empty_postgresql_url: URL) -> DatabaseConfig:
    """An empty PostgreSQL database."""
    return DatabaseConfig(url=empty_postgresql_url)


def tables(config: DatabaseConfig) -> set[str]:
    async def names() -> set[str]:
        async with open_database(config) as database, database.engine.connect() as connection:
            found = await connection.run_sync(lambda c: inspect(c).get_table_names())
            schema = None if config.is_sqlite else "ledgerq"
            ours = await connection.run_sync(lambda c: inspect(c).get_table_names(schema))
            return {*found, *ours}

    return asyncio.run(names())


def test_up_down_and_up_again(empty: DatabaseConfig) -> None:
    """From empty to head; and from where ledgerq's tables move to their own schema, back to empty and forward."""
    alembic = alembic_config(empty)
    expected = {table.name for table in (*Base.metadata.sorted_tables, *METADATA.sorted_tables)} | {
        "alembic_version"
    }
    command.upgrade(alembic, "0006")
    command.downgrade(alembic, "base")
    assert tables(empty) == {"alembic_version"}
    migrate(empty)
    assert tables(empty) == expected
    with pytest.raises(NotImplementedError, match="restore a backup"):
        command.downgrade(alembic, "0006")
    assert tables(empty) == expected


def test_there_is_no_drift(empty: DatabaseConfig) -> None:
    """What `alembic check` finds between the migrations and the models: nothing."""
    migrate(empty)
    command.check(alembic_config(empty))


CATALOGUE = """
    SELECT table_name || '.' || column_name AS name,
           concat_ws(' ', data_type, is_nullable, column_default) AS definition
      FROM information_schema.columns WHERE table_schema IN ('public', 'ledgerq')
    UNION ALL SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
     WHERE connamespace IN ('public'::regnamespace, 'ledgerq'::regnamespace) AND contype <> 'n'
    UNION ALL SELECT indexname, indexdef FROM pg_indexes WHERE schemaname IN ('public', 'ledgerq')
    UNION ALL SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT proname, prosrc FROM pg_proc WHERE pronamespace IN ('public'::regnamespace, 'ledgerq'::regnamespace)
       AND prosrc NOT LIKE '%the way in of version 0.1%'
"""


async def catalogue(database: Database) -> dict[str, str]:
    async with database.sessions() as session:
        found = await session.execute(text(CATALOGUE))
        return {name: " ".join(definition.split()) for name, definition in found}


async def test_migrations_and_models_make_the_same_schema(
    database: Database, empty_postgresql_url: URL
) -> None:
    """Columns, defaults, constraints by name, indexes, triggers, functions: what autogenerate misses."""
    async with open_database(DatabaseConfig(url=empty_postgresql_url)) as made_at_once:
        await create_db_and_tables(made_at_once)
        await require_current(made_at_once)
        assert await catalogue(made_at_once) == await catalogue(database)


def test_plain_alembic_does_the_same(empty: DatabaseConfig) -> None:
    """`alembic upgrade head` with DATABASE_URL is `ledgerq migrate`."""
    url = empty.url.render_as_string(hide_password=False)
    words, env = ("-m", "alembic", "upgrade", "head"), {"DATABASE_URL": url, "PATH": ""}
    assert forked.run(words, env=env, cwd=ROOT, seconds=60).returncode == 0
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


def upgrade_in_another_process(config: DatabaseConfig) -> forked.Popen:
    url = config.url.render_as_string(hide_password=False)
    env = {**os.environ, "DATABASE_URL": url}
    return forked.Popen(("-m", "ledgerq", "migrate"), env=env, cwd=ROOT)


def test_several_deploys_at_once(
    empty_postgresql: DatabaseConfig,
) -> None:
    """One migrates, the others wait and find it done; all end with status 0."""
    deploys = [upgrade_in_another_process(empty_postgresql) for _ in range(4)]
    assert [deploy.wait(60) for deploy in deploys] == [0] * 4
    command.check(alembic_config(empty_postgresql))


async def test_a_deploy_that_is_killed_lets_the_next_one_through(
    empty_postgresql: DatabaseConfig,
) -> None:
    """The lock is the session's: it goes with the process, and so does a half-done migration."""
    async with open_database(empty_postgresql) as database, database.sessions() as session:
        # a table of ours in somebody's hand: the deploy waits with its lock taken
        await session.execute(text("CREATE TABLE audit_log (id int)"))
        stuck = upgrade_in_another_process(empty_postgresql)
        try:
            await eventually(lambda: migration_waits(database))
        finally:
            stuck.kill()
            stuck.wait()
        await session.rollback()
    await asyncio.to_thread(migrate, empty_postgresql)
    await asyncio.to_thread(command.check, alembic_config(empty_postgresql))


async def migration_waits(database: Database) -> bool:
    async with database.sessions() as session:
        found = text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND wait_event_type = 'Lock' AND query ILIKE '%CREATE TABLE%'"
        )
        return bool(await session.scalar(found))


async def test_a_migration_never_waits_long_with_others_behind_it(
    empty_postgresql: DatabaseConfig,
) -> None:
    """It gives up its place after 3 s, lets readers pass, and tries again until the lock is free."""
    await asyncio.to_thread(migrate, empty_postgresql, "0001")
    async with open_database(empty_postgresql) as database, database.sessions() as session:
        await session.execute(text("CREATE TABLE audit_log_old (id int)"))
        await session.execute(text("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE"))
        migration = asyncio.create_task(asyncio.to_thread(migrate, empty_postgresql))
        await eventually(lambda: gave_up_once(database))
        await session.rollback()
        await asyncio.wait_for(migration, 60)
        await require_current(database)


async def gave_up_once(database: Database) -> bool:
    """True once the server has counted a transaction that was rolled back."""
    async with database.sessions() as session:
        await session.execute(text("SELECT pg_stat_force_next_flush()"))
        back = await session.scalar(
            text("SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()")
        )
        return bool(back and back > 0)


def test_the_sql_can_be_written_to_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    """`alembic upgrade head --sql`, for who runs it by hand."""
    config = alembic_config(DatabaseConfig(url="postgresql://u@h/d"))
    command.upgrade(config, "head", sql=True)
    written = capsys.readouterr().out
    assert "CREATE TABLE task" in written
    assert "CREATE INDEX CONCURRENTLY ix_task_tags ON task USING gin" in written
    assert "audit_log is append-only" in written


def test_an_index_left_invalid_is_built_again(
    empty_postgresql: DatabaseConfig,
) -> None:
    """A concurrent build that failed half-way is replaced by the next try."""
    migrate(empty_postgresql, "0001")
    asyncio.run(leave_an_invalid_index(empty_postgresql))
    migrate(empty_postgresql)
    command.check(alembic_config(empty_postgresql))
    assert asyncio.run(invalid_indexes(empty_postgresql)) == 0


async def leave_an_invalid_index(config: DatabaseConfig) -> None:
    async with open_database(config) as database, transaction(database.sessions) as session:
        await session.execute(text("CREATE INDEX ix_task_tags ON task USING gin (tags)"))
        await session.execute(
            text(
                "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_task_tags'::regclass"
            )
        )


async def test_an_index_that_was_to_be_replaced_is_replaced_by_the_next_try(
    empty_postgresql: DatabaseConfig,
) -> None:
    """The old one was gone already, and the new one had not got its name."""
    await asyncio.to_thread(migrate, empty_postgresql, "0007")
    async with open_database(empty_postgresql) as database:
        async with transaction(database.sessions) as session:
            await session.execute(text("ALTER INDEX ix_task_tags RENAME TO ix_task_tags_new"))
        await asyncio.to_thread(migrate, empty_postgresql)
        await asyncio.to_thread(command.check, alembic_config(empty_postgresql))
        definition = (await catalogue(database))["ix_task_tags"]
    assert definition.endswith("USING gin (tags jsonb_path_ops) WHERE (tags <> '[]'::jsonb)")


async def invalid_indexes(config: DatabaseConfig) -> int:
    async with open_database(config) as database, database.sessions() as session:
        return await session.scalar(text("SELECT count(*) FROM pg_index WHERE NOT indisvalid")) or 0


def test_two_threads_migrate_two_databases(tmp_path: Path) -> None:
    """Alembic's context is one for the process: one thread would write into the other's database."""
    configs = [DatabaseConfig(url=f"sqlite:///{tmp_path}/{name}.sqlite3") for name in "abcd"]
    with ThreadPoolExecutor(len(configs)) as threads:
        list(threads.map(migrate, configs))

    async def revision(config: DatabaseConfig) -> str | None:
        async with open_database(config) as database:
            return await current_revision(database)

    assert {asyncio.run(revision(each)) for each in configs} == {head_revision()}
