"""Makes the statements of `ledgerq audit attach` and `detach`, by which PostgreSQL itself audits a table or stops."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from ledgerq.database.engine import Database
from ledgerq.errors import UsageError
from ledgerq.store.audit_rules import TableRules, rules_by_table
from ledgerq.store.audit_trigger import AuditedTable, name_of

_FIND = text(
    "SELECT n.nspname AS schema, c.relname AS name, c.relkind IN ('r', 'p') AS is_table, "
    "n.nspname = current_schema() AS is_default, "
    "ARRAY(SELECT a.attname FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
    "ORDER BY a.attnum)::text[] AS columns, "
    "ARRAY(SELECT a.attname FROM pg_index AS i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, place) "
    "JOIN pg_attribute AS a ON a.attnum = k.attnum WHERE i.indrelid = c.oid AND i.indisprimary "
    "AND a.attrelid = c.oid ORDER BY k.place)::text[] AS keys "
    "FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(:table)"
)
_NO_NAME = {
    "0A000",
    "42601",
    "42602",
}  # of PostgreSQL: another database's table, bad syntax, no valid name
_NAMING = "name one, with its schema if the search_path lacks it"


@dataclass(frozen=True, slots=True)
class Found:
    """A table in the database. `rules` are those of its audited classes; None if the application audits no class of it."""

    row: Any
    rules: TableRules | None


async def attach(
    database: Database, table: str, mask: Collection[str] = (), exclude: Collection[str] = ()
) -> Sequence[str]:
    """The statements that let PostgreSQL audit the table. `mask` and `exclude` are added to those of `Audited`.

    Raises:
        UsageError: the table does not exist, has no primary key, lacks a column, or the session audits it already.
    """
    async with database.engine.connect() as connection:
        found = await _find(connection, database, table)
    row, rules = found.row, found.rules
    _require_others(row, database.tables.schema)
    if not row.keys:
        raise UsageError("TABLE", f"{table} has no primary key", "give it one")
    for option, names in (("--mask", mask), ("--exclude", exclude)):
        if unknown := sorted(set(names) - set(row.columns)):
            cure = f"it has {', '.join(row.columns)}"
            raise UsageError(option, f"{table} has no column {unknown[0]!r}", cure)
    if rules and not rules.by_trigger:
        raise UsageError(
            "TABLE",
            f"App(audited=) lets the session audit {rules.name}: each change would leave two entries",
            f"say Audited({rules.name}, by_trigger=True), deploy that, and attach the table then",
        )
    own_name = row.name if row.is_default else f"{row.schema}.{row.name}"
    audited = AuditedTable(
        row.schema,
        row.name,
        rules.entity_type if rules else own_name,
        row.keys,
        {*mask, *(rules.masked if rules else ())},
        {*exclude, *(rules.excluded if rules else ())},
    )
    return audited.attach(database.tables.schema)


def _require_others(row: Any, schema: str) -> None:
    """Refuse PostgreSQL's tables and ledgerq's own: the log would log itself.

    Raises:
        UsageError: it is such a table.
    """
    if row.schema in {schema, "information_schema"} or row.schema.startswith("pg_"):
        whose = "ledgerq's own" if row.schema == schema else "PostgreSQL's own"
        raise UsageError("TABLE", f"{row.schema}.{row.name} is {whose}", "name one of yours")


async def detach(database: Database, table: str) -> Sequence[str]:
    """The statements by which PostgreSQL stops auditing the table. The entries stay.

    Raises:
        UsageError: there is no such table.
    """
    async with database.engine.connect() as connection:
        row = (await _find(connection, database, table)).row
    return AuditedTable(row.schema, row.name, "", ()).detach()


async def run(database: Database, statements: Sequence[str]) -> None:
    """Run the statements in one transaction."""
    async with database.engine.begin() as connection:
        for statement in statements:
            await connection.exec_driver_sql(statement)


async def _find(connection: AsyncConnection, database: Database, table: str) -> Found:
    if connection.dialect.name != "postgresql":
        raise UsageError(
            "DATABASE_URL",
            "SQLite has no triggers for statements",
            "let the session audit the class: App(audited=[…])",
        )
    try:
        row = (await connection.execute(_FIND, {"table": table})).one_or_none()
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) not in _NO_NAME:
            raise
        raise UsageError("TABLE", f"{table!r} is no table's name", _NAMING) from error
    if row is None or not row.is_table:
        problem = f"there is no table {table}" if row is None else f"{table} is no table"
        raise UsageError("TABLE", problem, _NAMING)
    recorder = database.tables.recorder
    for rules in rules_by_table(recorder.rules.values()).values() if recorder else ():
        same = await connection.scalar(
            text("SELECT to_regclass(:one) = to_regclass(:other)"),
            {"one": name_of(rules.table), "other": table},
        )
        if same:
            return Found(row, rules)
    return Found(row, None)
