"""Help for Alembic migrations: ledgerq's tables in a service's own history, its `env.py`, indexes on tables in use.

A service that has its own Alembic history may create and upgrade ledgerq's tables in it:

```python
from alembic import op
from ledgerq import alembic as ledgerq_tables

def upgrade() -> None:
    ledgerq_tables.upgrade(op, to=3)

def downgrade() -> None:
    ledgerq_tables.downgrade(op, to=0)
```

and its `env.py` passes `include_name=ledgerq_tables.include_name` to `context.configure`, so that neither
`--autogenerate` nor `alembic check` looks at ledgerq's tables.
"""

import asyncio
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from alembic import context, op
from sqlalchemy import Connection, MetaData, inspect, text
from sqlmodel.sql.sqltypes import AutoString

from ledgerq.columns import NAMING_CONVENTION, UtcDateTime
from ledgerq.database.own_schema import SCHEMA, checked_schema
from ledgerq.database.settings import DatabaseConfig
from ledgerq.errors import LedgerqError, MigrationFailed
from ledgerq.settings import load
from ledgerq.store.migration import migrate, migration_engine, one_at_a_time
from ledgerq.store.schema import (
    alembic_config,
    create_tables,
    current_revision,
    current_version,
    head_revision,
    reached,
    refuse_unadopted,
    require_current,
)
from ledgerq.store.tables import METADATA
from ledgerq.store.unprintable import UNPRINTABLE
from ledgerq.store.versions import NEWEST, adopting, downgrading, upgrading

__all__ = [
    "NEWEST",
    "UNPRINTABLE",
    "adopt",
    "alembic_config",
    "create_index_concurrently",
    "create_tables",
    "current_revision",
    "current_version",
    "downgrade",
    "drop_index_concurrently",
    "head_revision",
    "include_name",
    "migrate",
    "require_current",
    "run",
    "upgrade",
]

_OURS = frozenset(table.name for table in METADATA.tables.values())


def upgrade(operations: Any, to: int, *, schema: str = SCHEMA) -> None:
    """Bring ledgerq's tables to a version, in the transaction of the migration that calls it.

    Versions that the tables have reached already are skipped. With `--sql`, the statements of all versions up to
    `to` are written.

    Args:
        operations: Alembic's `op`.
        to: the version. Write it as a number: with a name, an old migration would do something else after an update of ledgerq.
        schema: the PostgreSQL schema of ledgerq's tables, as in `App(schema=)`.

    Raises:
        MigrationFailed: there is no such version; or the database has tables of ledgerq 0.1: run `adopt` first.
        SettingError: the schema is no plain identifier.
    """
    own, found = checked_schema(schema), 0
    if not _offline(operations):
        found = reached(operations.get_bind(), own).version
        if found == 0:
            refuse_unadopted(operations.get_bind(), own)
    _run_each(operations, upgrading(_dialect(operations), found, to, own))


def downgrade(operations: Any, to: int, *, schema: str = SCHEMA) -> None:
    """Bring ledgerq's tables back to an earlier version; 0 drops the tables with their rows.

    With `--sql`, the statements that undo all versions after `to` are written. `operations` is Alembic's `op`, `schema` the
    PostgreSQL schema of ledgerq's tables. Raises MigrationFailed if there is no version `to`, and SettingError if the schema
    is no plain identifier.
    """
    own, found = checked_schema(schema), NEWEST
    if not _offline(operations):
        found = reached(operations.get_bind(), own).version
    _run_each(operations, downgrading(_dialect(operations), found, to, own))


def adopt(operations: Any, *, schema: str = SCHEMA) -> None:
    """Move the tables of ledgerq 0.1 into ledgerq's own schema; they are at version 1 then.

    Rows, sequences, triggers and grants move with the tables. The old schema keeps a function `enqueue_job` that calls
    the new one. If there are no tables of 0.1, version 1 is created. If the tables have a version already, nothing
    happens. On SQLite, which has one schema, the tables stay where they are.

    Raises:
        MigrationFailed: on SQLite, the tables lack the last migrations of ledgerq 0.1 (up to 0006); run them first.
        DBAPIError: on PostgreSQL, the tables lack the last migrations of ledgerq 0.1 (up to 0005); run them first.
        SettingError: the schema is no plain identifier.
    """
    dialect, own = _dialect(operations), checked_schema(schema)
    if not _offline(operations):
        bind = operations.get_bind()
        if reached(bind, own).version:
            return
        if dialect == "sqlite":
            _require_text_ids(bind)
    _run_each(operations, adopting(dialect, own))


def include_name(name: str | None, kind: str, parents: Any, *, schema: str = SCHEMA) -> bool:
    """For `context.configure(include_name=…)` in an `env.py`: False for ledgerq's tables, which Alembic then ignores.

    If ledgerq's tables stand in another schema than `ledgerq`, pass `partial(include_name, schema="…")`.
    """
    if kind == "schema":
        return name != schema
    place = parents.get("schema_name")
    if context.get_context().dialect.name == "sqlite":  # one schema for all
        table = name if kind == "table" else parents.get("table_name")
        return table not in _OURS
    return bool(place != schema)


def _require_text_ids(connection: Connection) -> None:
    looked = inspect(connection)
    if looked.has_table("dead_letter") and "queue" not in {
        column["name"] for column in looked.get_columns("dead_letter")
    }:
        raise MigrationFailed(
            "the tables of ledgerq 0.1 have no text ids yet; run migration 0006 of ledgerq's repository before"
        )


def _run_each(operations: Any, statements: Iterable[str]) -> None:
    for statement in statements:
        operations.execute(text(statement.replace(":", r"\:")))


def _dialect(operations: Any) -> str:
    return str(operations.get_context().dialect.name)


def _offline(operations: Any) -> bool:
    return bool(operations.get_context().as_sql)


def create_index_concurrently(
    name: str, table: str, columns: Sequence[str], **options: Any
) -> None:
    """Build an index while other sessions go on writing to the table.

    An index of this name, which a failed try may have left invalid, is dropped first. PostgreSQL does not build such an
    index in a transaction: what the migration did before is committed first. On SQLite the index is built as usual.
    """
    if op.get_context().dialect.name != "postgresql":
        op.create_index(name, table, list(columns), **options)
        return
    with op.get_context().autocommit_block():
        # building the index waits for running transactions, and holds no lock that blocks writers
        op.execute("SET lock_timeout = 0")
        op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)
        op.create_index(name, table, list(columns), postgresql_concurrently=True, **options)
        op.execute("RESET lock_timeout")


def drop_index_concurrently(name: str, table: str) -> None:
    """Drop an index while other sessions go on writing to the table.

    On PostgreSQL, what the migration did before is committed first.
    """
    if op.get_context().dialect.name != "postgresql":
        op.drop_index(name, table)
        return
    with op.get_context().autocommit_block():
        op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)


def run(*metadata: MetaData) -> None:
    """The body of an `env.py`: run the migrations on the database that a command of ledgerq names, or on DATABASE_URL.

    Args:
        *metadata: the metadata of the application's tables, for `alembic check` and `--autogenerate`. These look at the
            default schema and at the schemas that the metadata names, and ignore ledgerq's tables.
            Constraints and indexes are named by a metadata's own `naming_convention`; without one, by ledgerq's.
    """
    given = context.config.attributes.get("database")
    if isinstance(given, DatabaseConfig):
        _run(given, metadata)
        return
    try:
        _run(load(DatabaseConfig), metadata)
    except LedgerqError as error:
        sys.exit(f"alembic: {error}")


def _run(config: DatabaseConfig, metadata: Sequence[MetaData]) -> None:
    if context.is_offline_mode():
        _migrate(None, config, metadata)
    else:
        asyncio.run(_migrate_online(config, metadata))


def _as_plain_type(kind: str, value: object, _context: object) -> str | Literal[False]:
    """Write a column's type into a migration as plain SQLAlchemy: a migration must not change when ledgerq does."""
    if kind == "type" and isinstance(value, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    if kind == "type" and isinstance(value, AutoString):
        return f"sa.String({value.length})"
    return False


def _in_one(*metadata: MetaData) -> MetaData:
    """One metadata with all tables, each with the names that its own metadata's naming convention gives, if it has one.

    Alembic asks one convention for the names that a migration leaves out: the first metadata's.
    """
    conventions = [_convention_of(each) for each in metadata]
    merged = MetaData()
    for each, convention in zip(metadata, conventions, strict=True):
        merged.naming_convention = convention  # a copied table takes its names from this at once
        for table in each.sorted_tables:
            table.to_metadata(merged)
    merged.naming_convention = next(iter(conventions), NAMING_CONVENTION)
    return merged


def _convention_of(metadata: MetaData) -> Any:
    """The metadata's own naming convention; and ledgerq's for what that does not name, or if that is SQLAlchemy's."""
    own = metadata.naming_convention
    return (
        NAMING_CONVENTION if own == MetaData().naming_convention else {**NAMING_CONVENTION, **own}
    )


def _names_of(theirs: MetaData) -> Callable[[str | None, str, Any], bool]:
    """An `include_name` that leaves out all schemas but the default one and theirs; in these, ledgerq's tables.

    Nobody tells `run` in which schema ledgerq's tables stand: it may be the default one, or one of theirs.
    """
    schemas = {None, *(table.schema for table in theirs.tables.values())} - {SCHEMA}
    names = {table.name for table in theirs.tables.values()}

    def included(name: str | None, kind: str, parents: Any) -> bool:
        if kind == "schema":
            return name in schemas
        place, table = parents.get("schema_name"), parents.get("table_name", name)
        theirs_too = f"{place}.{table}" in theirs.tables if place else table in names
        ours = table in _OURS and not theirs_too
        return not ours and include_name(name, kind, parents)

    return included


def _migrate(
    connection: Connection | None, config: DatabaseConfig, metadata: Sequence[MetaData]
) -> None:
    theirs = _in_one(*metadata)
    context.configure(
        connection=connection,
        url=None if connection else config.url,
        literal_binds=connection is None,
        dialect_opts={"paramstyle": "named"},
        target_metadata=theirs,
        include_name=_names_of(theirs),
        include_schemas=any(table.schema for table in theirs.tables.values()),
        render_item=_as_plain_type,
        render_as_batch=config.is_sqlite,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


async def _migrate_online(config: DatabaseConfig, metadata: Sequence[MetaData]) -> None:
    async with (
        migration_engine(config) as engine,
        one_at_a_time(engine),
        engine.connect() as connection,
    ):
        await connection.run_sync(_migrate, config, metadata)
