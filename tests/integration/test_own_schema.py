"""ledgerq's tables have a schema of their own: a service's tables, its Alembic history and its search_path never meet them."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Column, Connection, Integer, MetaData, Table, inspect, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from db.schema import migrate as migrate_the_task_manager
from ledgerq import App, Payload, stage
from ledgerq import alembic as ledgerq_tables
from ledgerq.database.engine import Database, Tables, open_database
from ledgerq.database.settings import DatabaseConfig
from ledgerq.errors import DefinitionError, MigrationFailed, SchemaAhead, SchemaBehind, SettingError
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.outcome import Completed
from ledgerq.execution.process import process
from ledgerq.execution.retry import Policy
from ledgerq.job import JobContext, job
from ledgerq.store.migration import migrate
from ledgerq.store.schema import bring_up, create_tables, require_current
from ledgerq.store.tables import METADATA, AuditLog, OutboxMessage, ProcessedJob
from ledgerq.store.versions import NEWEST, downgrading, upgrading
from ledgerq.wire.envelope import Envelope, encode
from tests.acceptance import forked
from tests.support import rows


class Note(Payload[None], kind="note"):
    """A payload."""


@job
async def note(context: JobContext, _: Note) -> None:
    """Stages another one."""
    await context.stage(Note(), job_id="next")


@pytest.fixture(params=["postgresql", "sqlite"])
def empty(
    request: pytest.FixtureRequest, empty_postgresql_url: URL, tmp_path: Path
) -> DatabaseConfig:
    """An empty database of either sort."""
    on_sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/empty.sqlite3" if on_sqlite else empty_postgresql_url
    return DatabaseConfig(url=url)


def differences(connection: Connection) -> list[Any]:
    """Between the tables that stand there and those that the code knows."""
    on_sqlite = connection.dialect.name == "sqlite"
    known = METADATA
    if on_sqlite:
        known = MetaData(naming_convention=METADATA.naming_convention)
        for table in METADATA.sorted_tables:
            table.to_metadata(known, schema=None)  # type: ignore[arg-type]

    def include(name: str | None, kind: str, parents: Any) -> bool:
        return on_sqlite or kind != "schema" or name == "ledgerq"

    options = {"include_schemas": not on_sqlite, "include_name": include, "compare_type": True}
    context = MigrationContext.configure(connection, opts=options)
    return [each for each in compare_metadata(context, known) if "schema_version" not in str(each)]


async def test_the_versions_make_what_the_code_knows(empty: DatabaseConfig) -> None:
    """Table by table; and twice changes nothing."""
    await asyncio.to_thread(migrate, empty, Tables())
    async with open_database(empty, Tables()) as database:
        await require_current(database)
        async with database.engine.connect() as connection:
            assert await connection.run_sync(differences) == []
        async with database.engine.begin() as connection:
            for statement in upgrading(connection.dialect.name, 0, NEWEST):
                await connection.exec_driver_sql(statement)  # as if none had been run
            assert await connection.run_sync(differences) == []


async def test_a_service_may_have_tables_of_the_same_names(empty_postgresql_url: URL) -> None:
    """In `public`, whatever their columns are."""
    config = DatabaseConfig(url=empty_postgresql_url)
    async with open_database(config, Tables()) as database:
        async with database.engine.begin() as connection:
            for table in METADATA.sorted_tables:
                await connection.execute(text(f"CREATE TABLE public.{table.name} (mine int)"))
        await asyncio.to_thread(migrate, config, Tables())
        await _one_job(database, Tables())
        async with database.engine.connect() as connection:
            for table in METADATA.sorted_tables:
                of_theirs = text(f"SELECT count(*) FROM public.{table.name}")  # noqa: S608
                assert not await connection.scalar(of_theirs)


async def test_the_schema_may_have_another_name(empty_postgresql_url: URL) -> None:
    """Two applications on one database do not see each other."""
    config = DatabaseConfig(url=empty_postgresql_url)
    for schema in ("one", "user"):  # a word that must be quoted, too
        tables = App(jobs=[note], schema=schema).tables
        await asyncio.to_thread(migrate, config, tables)
        async with open_database(config, tables) as database:
            await require_current(database)
            await _one_job(database, tables)
            async with database.engine.connect() as connection:
                there = await connection.run_sync(lambda c, s=schema: inspect(c).get_table_names(s))  # type: ignore[misc]
                assert {"outbox_message", "schema_version"} <= set(there)


async def _one_job(database: Database, tables: Tables) -> None:
    registry = App(jobs=[note], schema=tables.schema).registry()
    body = encode(Envelope("note", {}))
    [outcome] = await process([Delivery("a", 1, body)], registry, database.sessions, Policy())
    assert outcome == Completed(None)
    assert [each.job_id for each in await rows(database.sessions, ProcessedJob)] == ["a"]
    assert [each.job_id for each in await rows(database.sessions, OutboxMessage)] == ["next"]
    assert await rows(database.sessions, AuditLog) == []


async def test_a_services_own_session_stages(empty: DatabaseConfig) -> None:
    """On an engine that the service has built, which knows nothing of ledgerq."""
    await asyncio.to_thread(migrate, empty, Tables())
    url = empty.target.url
    engine = create_async_engine(url)
    try:
        async with AsyncSession(engine) as session, session.begin():
            assert (await stage(session, Note(), job_id="theirs")).is_new
        async with AsyncSession(engine) as session, session.begin():
            assert not (await stage(session, Note(), job_id="theirs")).is_new
    finally:
        await engine.dispose()
    async with open_database(empty, Tables()) as database:
        assert [each.job_id for each in await rows(database.sessions, OutboxMessage)] == ["theirs"]


async def test_a_worker_takes_version_2_whose_sql_makes_random_ids(
    empty_postgresql_url: URL,
) -> None:
    """Version 3 only makes new ids sort by time. It goes and comes as it was, in a schema of any name."""
    config, tables = DatabaseConfig(url=empty_postgresql_url), Tables(schema="user")
    await asyncio.to_thread(migrate, config, tables)
    async with open_database(config, tables) as database:
        newest = await _functions(database)
        assert await _version_of_a_new_id(database) == 7
        await _run_each(database, downgrading("postgresql", 3, 2, "user"))
        await require_current(database)
        assert await _version_of_a_new_id(database) == 4
        await _run_each(database, upgrading("postgresql", 2, 3, "user"))
        assert await _functions(database) == newest


async def _run_each(database: Database, statements: Iterator[str]) -> None:
    async with database.engine.begin() as connection:
        for statement in statements:
            await connection.exec_driver_sql(statement)


async def _version_of_a_new_id(database: Database) -> int | None:
    async with database.engine.begin() as connection:
        return UUID(
            str(await connection.scalar(text("SELECT \"user\".enqueue_job('note')")))
        ).version


async def _functions(database: Database) -> set[tuple[Any, ...]]:
    async with database.engine.connect() as connection:
        shown = "SELECT pg_get_functiondef(oid), proacl::text FROM pg_proc WHERE pronamespace = '\"user\"'::regnamespace"
        return {tuple(row) for row in await connection.execute(text(shown))}


async def test_a_worker_takes_a_newer_schema_unless_that_says_no(empty: DatabaseConfig) -> None:
    """So that the schema can be brought up before the code is deployed."""
    await asyncio.to_thread(migrate, empty, Tables())
    place = "" if empty.is_sqlite else "ledgerq."
    later = f"INSERT INTO {place}schema_version (version, code_from) VALUES (99, {{}})"  # noqa: S608
    async with open_database(empty, Tables()) as database:
        async with database.engine.begin() as connection:
            await connection.exec_driver_sql(later.format(NEWEST))
        await require_current(database)
        async with database.engine.begin() as connection:
            await connection.exec_driver_sql(later.format(98).replace("99", "100"))
        with pytest.raises(SchemaAhead, match="version 100 of ledgerq's tables"):
            await require_current(database)


async def test_an_empty_database_is_refused_with_the_command_that_mends_it(
    empty: DatabaseConfig,
) -> None:
    """By a worker, at its start."""
    async with open_database(empty, Tables()) as database:
        with pytest.raises(SchemaBehind, match="run: ledgerq migrate"):
            await require_current(database)


@pytest.mark.parametrize("name", ["", "My App", "pg_mine", "x" * 64, "1a", "a-b", 'a"b'])
def test_a_schema_is_a_plain_identifier(name: str) -> None:
    """Else the App is refused, with the rule."""
    with pytest.raises(SettingError, match=r"App\(schema=\)"):
        App(jobs=[], schema=name)


@pytest.mark.parametrize("name", sorted(table.name for table in METADATA.tables.values()))
async def test_a_table_of_one_s_own_with_a_name_of_ours_is_made_or_refused(
    empty: DatabaseConfig, name: str
) -> None:
    """On SQLite, which has one schema, the second one can't be made: it would be ledgerq's."""
    theirs = MetaData()
    Table(name, theirs, Column("mine", Integer))
    async with open_database(empty, Tables((theirs,))) as database:
        if database.engine.dialect.name == "sqlite":
            with pytest.raises(DefinitionError, match=f"{name}: .*one schema.*ledgerq_database ="):
                await create_tables(database)
            return
        await create_tables(database)
        async with database.engine.connect() as connection:
            assert not (await connection.execute(text(f"SELECT mine FROM public.{name}"))).all()  # noqa: S608


async def test_tables_in_a_schema_of_their_own_are_made_or_refused(empty: DatabaseConfig) -> None:
    """PostgreSQL's schema is made first; SQLite has none."""
    theirs = MetaData(schema="Shop")
    Table("order", theirs, Column("mine", Integer))
    async with open_database(empty, Tables((theirs,))) as database:
        if database.engine.dialect.name == "sqlite":
            with pytest.raises(DefinitionError, match=r"Shop\.order: stands in a schema"):
                await create_tables(database)
            return
        for _ in range(2):  # what is there is left alone
            await create_tables(database)
        async with database.engine.connect() as connection:
            assert not (await connection.execute(text('SELECT mine FROM "Shop"."order"'))).all()


@pytest.mark.parametrize("name", ["public", "information_schema"])
def test_a_schema_that_others_use_is_not_ledgerq_s(name: str) -> None:
    """Else a downgrade to nothing would drop it."""
    with pytest.raises(SettingError, match=r"App\(schema=\): .* holds what is not ledgerq's"):
        App(jobs=[], schema=name)
    for change in (ledgerq_tables.upgrade, ledgerq_tables.downgrade):
        with pytest.raises(SettingError, match="name a schema of ledgerq's own"):
            change(None, to=0, schema=name)


async def test_new_tables_are_not_made_beside_those_of_0_1(empty: DatabaseConfig) -> None:
    """They would hide what waits in the old ones."""
    await asyncio.to_thread(migrate_the_task_manager, empty, "0005")
    async with open_database(empty, Tables()) as database, database.engine.connect() as connection:
        with pytest.raises(MigrationFailed, match=r"ledgerq\.alembic\.adopt\(op\)"):
            await connection.run_sync(bring_up)


SERVICE = {
    "models.py": """
from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import ledgerq.tables


class Base(DeclarativeBase):
    pass


class AuditLog(Base):
    __tablename__ = "audit_log"
    id: Mapped[int] = mapped_column(primary_key=True)
""",
    "migrations/env.py": """
import os

from alembic import context
from sqlalchemy import create_engine

from ledgerq.alembic import include_name
from models import Base

url = os.environ["URL"]
options = {"target_metadata": Base.metadata, "include_name": include_name, "include_schemas": "sqlite" not in url}
if context.is_offline_mode():
    context.configure(url=url, literal_binds=True, **options)
    with context.begin_transaction():
        context.run_migrations()
else:
    from sqlalchemy.ext.asyncio import create_async_engine
    import asyncio

    def migrate(connection):
        context.configure(connection=connection, **options)
        with context.begin_transaction():
            context.run_migrations()

    async def online():
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            await connection.run_sync(migrate)
        await engine.dispose()

    asyncio.run(online())
""",
    "migrations/script.py.mako": '"""m"""\nrevision = ${repr(up_revision)}\ndown_revision = ${repr(down_revision)}\n\n\ndef upgrade():\n    ${upgrades}\n\n\ndef downgrade():\n    ${downgrades}\n',
    "migrations/versions/0001.py": """
import sqlalchemy as sa
from alembic import op

from ledgerq import alembic as ledgerq_tables

revision = "0001"
down_revision = None


def upgrade():
    op.create_table("audit_log_of_mine", sa.Column("id", sa.Integer, primary_key=True))
    op.drop_table("audit_log_of_mine")
    ledgerq_tables.upgrade(op, to=3)


def downgrade():
    ledgerq_tables.downgrade(op, to=0)
""",
    "migrations/versions/0002.py": """
import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade():
    op.create_table("audit_log", sa.Column("id", sa.Integer, primary_key=True))


def downgrade():
    op.drop_table("audit_log")
""",
    "alembic.ini": "[alembic]\nscript_location = %(here)s/migrations\nprepend_sys_path = .\npath_separator = os\n",
}


async def test_a_services_own_history_brings_our_tables_up_and_never_drops_them(
    empty_postgresql_url: URL, tmp_path: Path
) -> None:
    """Up, check, down and up again with an `env.py` that looks at all schemas; `--sql` writes a script."""
    for name, content in SERVICE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    config = DatabaseConfig(url=empty_postgresql_url)
    url = empty_postgresql_url.set(drivername="postgresql+asyncpg").render_as_string(
        hide_password=False
    )

    def alembic(*words: str) -> str:
        ran = forked.run(("-m", "alembic", *words), env={"URL": url}, cwd=tmp_path, seconds=60)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    await asyncio.to_thread(alembic, "upgrade", "head")
    assert "No new upgrade operations" in await asyncio.to_thread(alembic, "check")
    async with open_database(config, Tables()) as database:
        await require_current(database)
        await _one_job(database, Tables())
    await asyncio.to_thread(alembic, "downgrade", "base")
    async with open_database(config, Tables()) as database:
        with pytest.raises(SchemaBehind):
            await require_current(database)
    await asyncio.to_thread(alembic, "upgrade", "head")
    script = await asyncio.to_thread(alembic, "upgrade", "head", "--sql")
    assert "CREATE FUNCTION ledgerq.enqueue_job" in script.replace("CREATE OR REPLACE", "CREATE")
