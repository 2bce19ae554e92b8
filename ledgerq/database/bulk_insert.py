"""Inserts many rows in one statement. Each column is one array, so PostgreSQL plans the statement only once.

A VALUES list would be a new statement for each number of rows, and a driver's executemany runs once per row. The
driver's executemany still inserts rows on SQLite, and rows that arrays can't carry or that SQLAlchemy completes.
Either way the columns' types prepare the values, as in a flush.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from inspect import signature
from operator import itemgetter
from typing import Any, NamedTuple

from pydantic_core import to_json, to_jsonable_python
from sqlalchemy import (
    CHAR,
    JSON,
    Boolean,
    Column,
    Date,
    DateTime,
    Dialect,
    Enum,
    Executable,
    Float,
    Integer,
    LargeBinary,
    Numeric,
    String,
    Time,
    TypeDecorator,
    Uuid,
    insert,
    inspect,
    text,
)
from sqlalchemy.dialects.postgresql import CITEXT, INTERVAL
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from sqlmodel import SQLModel

from ledgerq.database.own_schema import quoted, translated_schema

Rows = Sequence[Mapping[str, Any]]
_Prepare = Callable[[Any], Any] | None  # makes of a value what the driver takes; None: no need
_Take = Callable[[Rows], list[Any]]  # a column's value in each row
_IN_ARRAYS = (
    Boolean, Date, DateTime, Float, INTERVAL, Integer, JSON, LargeBinary, Numeric, String, Time, Uuid,
)  # fmt: skip


async def insert_rows(session: AsyncSession, table: type[SQLModel], rows: Rows) -> None:
    """Insert rows, as values by column; each must have the columns of the first. No rows: nothing is done.

    The columns' types and their defaults in Python apply, as in a flush. None is stored as NULL; in a
    JSON column without `none_as_null`, as JSON's null.
    """
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
    return list(added.scalars()) if returning else []


def _prepared(
    session: Session, table: type[SQLModel], rows: Rows, *, returning: bool
) -> tuple[Executable, Any]:
    """The INSERT and its parameters."""
    schema = translated_schema(session, table.__table__.schema)  # type: ignore[attr-defined]
    plan = _plan(table, session.get_bind().dialect, schema, tuple(rows[0]), returning)
    values = {key: take(rows) for key, take in plan.parameters}
    if plan.in_arrays:
        return plan.statement, values
    each = zip(*values.values(), strict=True) if values else [()] * len(rows)
    return plan.statement, [dict(zip(values, of_row, strict=True)) for of_row in each]


class _Plan(NamedTuple):
    """How rows of certain columns are inserted: a parameter holds a column's values in all rows, or in one row."""

    statement: Executable
    parameters: Sequence[tuple[str, _Take]]
    in_arrays: bool


@lru_cache(maxsize=64)
def _plan(
    table: type[SQLModel],
    dialect: Dialect,
    schema: str | None,
    names: tuple[str, ...],
    returning: bool,
) -> _Plan:
    mapper: Any = inspect(table)
    given = {name: _column(mapper, name) for name in names}
    left_out = [c for c in mapper.local_table.c if c not in set(given.values())]
    filled = [column for column in left_out if column.default is not None]
    columns = [*given.values(), *filled]
    if dialect.name == "postgresql" and _fit_arrays(mapper, columns, filled, dialect):
        target = ".".join(_quoted(each) for each in (schema, mapper.local_table.name) if each)
        statement = _unnested(
            target, columns, _column(mapper, "id") if returning else None, dialect
        )
        take = [_taken(name, array_value(column, dialect)) for name, column in given.items()]
        take += [_filled(column.default, array_value(column, dialect)) for column in filled]
        return _Plan(statement, [(f"value_{n}", each) for n, each in enumerate(take)], True)
    by_row: Any = insert(table).execution_options(render_nulls=True)  # None is NULL, as in arrays
    if returning:
        of_id = mapper.get_property_by_column(_column(mapper, "id"))
        by_row = by_row.returning(of_id.class_attribute, sort_by_parameter_order=True)
    parameters = [
        (mapper.get_property_by_column(column).key, _taken(name, _row_value(column, dialect)))
        for name, column in given.items()
    ]
    return _Plan(by_row, parameters, False)


def _column(mapper: Any, name: str) -> Any:
    """The column of this attribute, or else of this name."""
    return mapper.c[name] if name in mapper.c else mapper.local_table.c[name]


def _fit_arrays(
    mapper: Any, columns: Sequence[Column[Any]], filled: Sequence[Column[Any]], dialect: Dialect
) -> bool:
    """False if an array can't carry a column, or only SQLAlchemy knows a value: a version, an SQL default, …."""
    return (
        mapper.inherits is None
        and mapper.polymorphic_on is None
        and mapper.version_id_col is None
        and all(_is_plain(column.default) for column in filled)
        and bool(columns)
        and all(element_of(column, dialect) for column in columns)
    )


def _is_plain(default: Any) -> bool:
    """True for a value, and for a function that does not look at the rest of the row."""
    if not default.is_callable:
        return bool(default.is_scalar)
    try:
        return all(
            each.default is not each.empty for each in signature(default.arg).parameters.values()
        )
    except ValueError:  # a built-in class
        return True


def _taken(name: str, prepare: _Prepare) -> _Take:
    """Reads a column's values from the rows."""
    read = itemgetter(name)
    if prepare is None:
        return lambda rows: list(map(read, rows))
    return lambda rows: [prepare(read(row)) for row in rows]


def _filled(default: Any, prepare: _Prepare) -> _Take:
    """Makes a column's values for rows that leave it out."""
    if default.is_scalar:
        value = prepare(default.arg) if prepare else default.arg
        return lambda rows: [value] * len(rows)
    make = default.arg  # SQLAlchemy has given it a parameter, for the rest of the row
    return lambda rows: [prepare(make(None)) if prepare else make(None) for _ in rows]


def _unnested(
    target: str, columns: Sequence[Column[Any]], returned: Column[Any] | None, dialect: Dialect
) -> Executable:
    """The INSERT of arrays `:value_0`, `:value_1`, …; PostgreSQL numbers and returns the rows in the arrays' order."""
    names = ", ".join(_quoted(column.name) for column in columns)
    arrays = ", ".join(
        f"CAST(:value_{n} AS {element_of(column, dialect)}[])" for n, column in enumerate(columns)
    )
    new = ", ".join(f"value_{n}" for n in range(len(columns)))
    values = ", ".join(
        f"CAST(value_{n} AS {column.type.compile(dialect)})"
        if is_json(column, dialect)
        else f"value_{n}"
        for n, column in enumerate(columns)
    )
    sql = (
        f"INSERT INTO {target} ({names}) SELECT {values} "  # noqa: S608 - the names are quoted
        f"FROM unnest({arrays}) WITH ORDINALITY AS new ({new}, place) ORDER BY place"
    )
    if returned is None:
        return text(sql)
    returning = text(f"{sql} RETURNING {_quoted(returned.name)}")
    if isinstance(returned.type, Integer):  # as the driver reads it
        return returning
    return returning.columns(returned)


def _quoted(name: str) -> str:
    """The name for `text`, to which a colon would be a parameter."""
    return quoted(name).replace(":", r"\:")


@lru_cache(maxsize=256)
def element_of(column: Column[Any], dialect: Dialect) -> str | None:
    """PostgreSQL's type for one of the column's values in an array, None if an array can't carry them.

    A text has no length: the cast to VARCHAR(3) would cut what the column refuses.
    """
    plain = _layers(column, dialect)[-1]
    if column.type.dialect_impl(dialect)._has_bind_expression:  # noqa: SLF001 - there is no public way
        return None
    if isinstance(plain, Enum) and plain.native_enum:
        # the engine may translate a schema, which only a statement of SQLAlchemy's follows
        return None if plain.schema else plain.compile(dialect)
    if isinstance(plain, (CHAR, CITEXT)):  # as a text, they compare otherwise
        return None
    if isinstance(plain, (JSON, String)):
        return "TEXT"
    return plain.compile(dialect) if isinstance(plain, _IN_ARRAYS) else None


def array_value(column: Column[Any], dialect: Dialect) -> _Prepare:
    """What makes of a value of the column an element of an array."""
    plain: Any = _layers(column, dialect)[-1]
    if not isinstance(plain, JSON) or _binds_itself(column, dialect):
        bound = column.type.dialect_impl(dialect).bind_processor(dialect)
        # an enum looks up the same few values row after row
        return lru_cache(bound) if type(column.type) is Enum and bound else bound
    of_none = None if plain.none_as_null else "null"

    def as_text(value: Any) -> str | None:
        if value is None:
            return of_none
        return "null" if value is JSON.NULL else to_json(value).decode()

    return as_text


def _row_value(column: Column[Any], dialect: Dialect) -> _Prepare:
    """What makes of a value of the column what its type takes: JSON of any values that Pydantic can write."""
    if not is_json(column, dialect) or _binds_itself(column, dialect):
        return None
    return lambda value: value if value is JSON.NULL else to_jsonable_python(value)


def is_json(column: Column[Any], dialect: Dialect) -> bool:
    """True if the database has the column's values as JSON."""
    return isinstance(_layers(column, dialect)[-1], JSON)


def _binds_itself(column: Column[Any], dialect: Dialect) -> bool:
    """True if a type of the application prepares the values."""
    return any(
        type(each).process_bind_param is not TypeDecorator.process_bind_param
        or type(each).bind_processor is not TypeDecorator.bind_processor
        for each in _layers(column, dialect)[:-1]
    )


def _layers(column: Column[Any], dialect: Dialect) -> list[Any]:
    """The column's type on this database; if it decorates another type, then that one, and so on."""
    layers: list[Any] = [column.type.dialect_impl(dialect)]
    while isinstance(layers[-1], TypeDecorator):
        layers.append(layers[-1].impl_instance)
    return layers
