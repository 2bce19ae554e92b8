"""`ledgerq.alembic.run` as the whole of an `env.py`: what it compares."""

from pathlib import Path
from typing import Any

import alembic
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Column, ForeignKey, Integer, MetaData, Table
from sqlalchemy.engine import URL

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
TEMPLATE = Path(alembic.__file__).parent / "templates/generic/script.py.mako"


class History:
    """An Alembic history in a folder, on a database."""

    def __init__(self, folder: Path, database: DatabaseConfig, *metadata: MetaData) -> None:
        for name, content in {
            "env.py": ENV,
            "script.py.mako": TEMPLATE.read_text(),
            "versions/first.py": FIRST,
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
