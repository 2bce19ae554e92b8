"""Inserts many rows in one statement. Each column is one array, so PostgreSQL plans the statement only once.

A VALUES list would be a new statement for each number of rows, and a driver's executemany runs once per row.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from pydantic_core import to_json, to_jsonable_python
from sqlalchemy import JSON, Executable, TextClause, insert, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from sqlmodel import SQLModel

from ledgerq.database.own_schema import quoted, translated_schema

Rows = Sequence[Mapping[str, Any]]


async def insert_rows(session: AsyncSession, table: type[SQLModel], rows: Rows) -> None:
    """Insert rows, as values by column; each must have the columns of the first. No rows: nothing is done."""
    await _insert(session, table, rows, returning=False)


async def insert_returning_ids(
    session: AsyncSession, table: type[SQLModel], rows: Rows
) -> list[int]:
    """Insert rows as `insert_rows` does; returns the new rows' ids in the order of `rows`, [] if `rows` is empty."""
    return await _insert(session, table, rows, returning=True)


def insert_rows_now(session: Session, table: type[SQLModel], rows: Rows) -> None:
    """Insert rows without awaiting, for use inside a flush of the session. If `rows` is empty, nothing is done."""
    if rows:
        session.connection().execute(*_prepared(session, table, rows, returning=False))


async def _insert(
    session: AsyncSession, table: type[SQLModel], rows: Rows, *, returning: bool
) -> list[int]:
    if not rows:
        return []
    if recorder := getattr(session.sync_session, "recorder", None):
        statement = f"insert_rows({table.__name__})"
        recorder.require_seen(session.sync_session, table.__table__, statement)  # type: ignore[attr-defined]
    added: Any = await session.execute(
        *_prepared(session.sync_session, table, rows, returning=returning)
    )
    if not returning:
        return []
    ids = list(added.scalars())
    return ids if session.get_bind().dialect.name != "postgresql" else sorted(ids)


def _prepared(
    session: Session, table: type[SQLModel], rows: Rows, *, returning: bool
) -> tuple[Executable, Any]:
    """The INSERT and its parameters. On PostgreSQL, the ids ascend in the order of the rows."""
    columns = tuple(rows[0])
    as_json = {column for column in columns if _is_json(table, column)}
    if session.get_bind().dialect.name != "postgresql":
        plain: Any = insert(table)
        if returning:
            plain = plain.returning(table.id, sort_by_parameter_order=True)  # type: ignore[attr-defined]
        return plain, [{**row, **{c: to_jsonable_python(row[c]) for c in as_json}} for row in rows]
    arrays = {
        column: [_json(row[column]) if column in as_json else row[column] for row in rows]
        for column in columns
    }
    schema = translated_schema(session, table.__table__.schema)  # type: ignore[attr-defined]
    return _statement(table, schema, columns, returning), arrays


@lru_cache(maxsize=64)
def _statement(
    table: type[SQLModel], schema: str | None, columns: tuple[str, ...], returning: bool
) -> TextClause:
    types = table.__table__.columns  # type: ignore[attr-defined]
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    arrays = ", ".join(
        f"CAST(:{c} AS {'TEXT' if _is_json(table, c) else types[c].type.compile(dialect)}[])"
        for c in columns
    )
    values = ", ".join(f"v.{c}::jsonb" if _is_json(table, c) else f"v.{c}" for c in columns)
    names = ", ".join(columns)
    target = f"{quoted(schema)}.{table.__tablename__}" if schema else table.__tablename__
    return text(
        f"INSERT INTO {target} ({names}) SELECT {values} "  # noqa: S608 - names of ours
        f"FROM unnest({arrays}) WITH ORDINALITY AS v({names}, row_number) ORDER BY row_number"
        + (" RETURNING id" if returning else "")
    )


@lru_cache(maxsize=256)
def _is_json(table: type[SQLModel], column: str) -> bool:
    of_column = table.__table__.columns[column].type  # type: ignore[attr-defined]
    return isinstance(getattr(of_column, "impl_instance", of_column), JSON)


def _json(value: Any) -> str | None:
    return None if value is None else to_json(value).decode()
