"""The condition by which one statement finds many rows, each by its key."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    BindParameter,
    Column,
    ColumnElement,
    any_,
    bindparam,
    func,
    select,
    tuple_,
)


def among(
    columns: Sequence[Column[Any]], keys: list[Any], *, in_arrays: bool
) -> ColumnElement[bool]:
    """The condition that a row has one of these keys; with arrays, in one statement for any number of keys."""
    if len(columns) == 1:
        [column] = columns
        return column == any_(_array(column, keys)) if in_arrays else column.in_(keys)
    if not in_arrays:
        return tuple_(*columns).in_(keys)
    parts = zip(columns, zip(*keys, strict=True), strict=True)
    return tuple_(*columns).in_(
        select(*(func.unnest(_array(column, values)) for column, values in parts))
    )


def _array(column: Column[Any], values: Iterable[Any]) -> BindParameter[Any]:
    return bindparam(None, list(values), ARRAY(column.type, dimensions=1), unique=True)
