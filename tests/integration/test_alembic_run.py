"""`ledgerq.alembic.run` as the whole of an `env.py`: what it compares, and the names it gives."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import alembic
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    inspect,
)
from sqlalchemy.engine import URL

from ledgerq.alembic import _names_of
from ledgerq.database.engine import open_database
from ledgerq.database.settings import DatabaseConfig

ENV = """
from alembic import context
from ledgerq.alembic import run

run(*context.config.attributes["metadata"])
"""
FIRST = """
from alembic import op
from ledgerq import alembic as ledgerq_tables

revision, down_revision = "first", None


def upgrade():
    if op.get_context().dialect.name != "postgresql":
        return
    op.execute("CREATE SCHEMA sales")
    op.execute("CREATE SCHEMA other")
    op.execute("CREATE TABLE other.of_nobody (id int)")
    for schema in ("ledgerq", "sales"):
        ledgerq_tables.upgrade(op, to=ledgerq_tables.NEWEST, schema=schema)
"""
BY_HAND = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "second", "first"


def upgrade():
    op.create_table("a", sa.Column("id", sa.Integer), sa.CheckConstraint("id > 0", name="positive"))
"""
TEMPLATE = Path(alembic.__file__).parent / "templates/generic/script.py.mako"


class History:
    """An Alembic history in a folder, on a database."""

    def __init__(
        self, folder: Path, database: DatabaseConfig, *metadata: MetaData, second: str = ""
    ) -> None:
        for name, content in {
            "env.py": ENV,
            "script.py.mako": TEMPLATE.read_text(),
            "versions/first.py": FIRST,
            **({"versions/second.py": second} if second else {}),
        }.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
        self._config, self._database = Config(), database
        self._config.set_main_option("script_location", str(folder))
        self._config.attributes.update(database=database, metadata=metadata)
        command.upgrade(self._config, "head")

    def migrated(self) -> str:
        """Write a migration of what is missing, run it, and check that nothing is missing then; the migration."""
        script: Any = command.revision(self._config, autogenerate=True)
        command.upgrade(self._config, "head")
        command.check(self._config)
        return Path(script.path).read_text()

    def seen(self, look: Callable[[Connection], Any]) -> Any:
        async def looked() -> Any:
            async with (
                open_database(self._database) as opened,
                opened.engine.connect() as connection,
            ):
                return await connection.run_sync(look)

        return asyncio.run(looked())


@pytest.fixture(params=["postgresql", "sqlite"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> DatabaseConfig:
    """An empty database of either sort."""
    if request.param == "sqlite":
        return DatabaseConfig(url=f"sqlite:///{tmp_path}/empty.sqlite3")
    return DatabaseConfig(url=request.getfixturevalue("empty_postgresql_url"))


def test_tables_of_the_schemas_that_the_metadata_names_are_compared(
    empty_postgresql_url: URL, tmp_path: Path
) -> None:
    """Those of other schemas are let alone, and ledgerq's tables wherever they stand."""
    metadata = MetaData()
    Table("customer", metadata, Column("id", Integer, primary_key=True))
    Table(
        "bill",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("customer_id", ForeignKey("customer.id"), index=True),
        schema="sales",
    )
    Table("audit_log", metadata, Column("id", Integer, primary_key=True), schema="public")
    history = History(tmp_path, DatabaseConfig(url=empty_postgresql_url), metadata)
    written = history.migrated()
    assert written.count("op.create_table") == 3
    assert "op.drop" not in written.split("def downgrade")[0]
    assert "op." not in history.migrated()


def test_a_metadata_without_schemas_sees_the_default_one_alone(
    empty: DatabaseConfig, tmp_path: Path
) -> None:
    """As before, on either database."""
    metadata = MetaData()
    Table("customer", metadata, Column("id", Integer, primary_key=True))
    history = History(tmp_path, empty, metadata)
    assert history.migrated().count("op.create_table") == 1
    assert "op." not in history.migrated()


THEIRS = {
    "ix": "idx_%(table_name)s_%(column_0_name)s",
    "uq": "%(table_name)s_%(column_0_name)s_key",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "fk": "%(table_name)s_%(column_0_name)s_fkey",
    "pk": "%(table_name)s_pkey",
}


def with_a_table(name: str, convention: dict[str, str] | None) -> MetaData:
    """A metadata whose table has each sort of name, also those that a flag of a column makes."""
    metadata = MetaData(naming_convention=convention)
    Table(
        name,
        metadata,
        Column("id", Integer, primary_key=True),
        Column("email", String, unique=True),
        Column("nick", String, index=True),
        Column("parent", ForeignKey(f"{name}.id")),
        CheckConstraint("id > 0", name="positive"),
    )
    return metadata


def names(table: str) -> Callable[[Connection], dict[str, Any]]:
    """The names in the database."""

    def look(connection: Connection) -> dict[str, Any]:
        found = inspect(connection)
        return {
            "ix": {each["name"] for each in found.get_indexes(table) if not each["unique"]},
            "uq": {each["name"] for each in found.get_unique_constraints(table)},
            "ck": {each["name"] for each in found.get_check_constraints(table)},
            "fk": {each["name"] for each in found.get_foreign_keys(table)},
            "pk": {found.get_pk_constraint(table)["name"]},
        }

    return look


@pytest.mark.parametrize("theirs", [("a",), ("a", "b"), ("b", "a")])
def test_each_metadata_keeps_its_naming_convention(
    empty: DatabaseConfig, tmp_path: Path, theirs: tuple[str, ...]
) -> None:
    """The names of a metadata without one follow ledgerq's convention."""
    conventions = {"a": THEIRS, "b": None}
    metadata = [with_a_table(name, conventions[name]) for name in theirs]
    history = History(tmp_path, empty, *metadata)
    history.migrated()
    assert history.seen(names("a")) == {
        "ix": {"idx_a_nick"},
        "uq": {"a_email_key"},
        "ck": {"a_positive_check"},
        "fk": {"a_parent_fkey"},
        "pk": {"a_pkey"},
    }
    if "b" in theirs:
        assert history.seen(names("b")) == {
            "ix": {"ix_b_nick"},
            "uq": {"uq_b_email"},
            "ck": {"ck_b_positive"},
            "fk": {"fk_b_parent_b"},
            "pk": {"pk_b"},
        }


def test_what_a_convention_does_not_name_has_a_name_all_the_same(
    empty: DatabaseConfig, tmp_path: Path
) -> None:
    """By ledgerq's convention: a constraint without a name can't be dropped on SQLite."""
    history = History(
        tmp_path, empty, with_a_table("a", {"ix": "idx_%(table_name)s_%(column_0_name)s"})
    )
    history.migrated()
    assert history.seen(names("a")) == {
        "ix": {"idx_a_nick"}, "uq": {"uq_a_email"}, "ck": {"ck_a_positive"}, "fk": {"fk_a_parent_a"}, "pk": {"pk_a"},
    }  # fmt: skip


def test_ledgerqs_tables_are_let_alone_wherever_they_stand() -> None:
    """Also in the default schema, where a search_path may have put them."""
    included, default = _names_of(MetaData()), {"schema_name": None}
    assert not included("processed_job", "table", default)
    assert not included("job_id", "column", {**default, "table_name": "processed_job"})


@pytest.mark.parametrize(
    ("convention", "name"), [(THEIRS, "a_positive_check"), (None, "ck_a_positive")]
)
def test_a_name_that_a_migration_leaves_out_follows_the_first_convention(
    empty: DatabaseConfig, tmp_path: Path, convention: dict[str, str] | None, name: str
) -> None:
    """Of one metadata it is its own."""
    metadata = [MetaData(naming_convention=convention), MetaData(naming_convention={"ck": "no"})]
    history = History(tmp_path, empty, *metadata, second=BY_HAND)
    assert history.seen(names("a"))["ck"] == {name}
