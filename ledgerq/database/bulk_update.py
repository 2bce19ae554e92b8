"""Updates many rows, each to its own values, in one statement. Each column is one array, as in `bulk_insert`."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ARRAY, BindParameter, Column, Dialect, Text, bindparam, column, func, update
from sqlalchemy.ext.asyncio import AsyncSession

from ledgerq.database.bulk_insert import array_value, element_of, is_json

Columns = Mapping[Column[Any], Sequence[Any]]  # a column → its value in each row


async def update_by_key(
    session: AsyncSession, keys: Columns, values: Columns, options: Mapping[str, Any]
) -> bool:
    """Set columns of many rows, which `keys` names by their primary keys. False if one of the rows does not exist.

    `options` are execution options. On SQLite, and for a column whose values an array can't carry, the statement runs once
    for each row.
    """
    columns = {**keys, **values}
    names = [f"value_{n}" for n in range(len(columns))]
    dialect = session.get_bind().dialect
    at_once = dialect.name == "postgresql" and all(element_of(c, dialect) for c in columns)
    if at_once:
        arrays = (_array(c, of_rows, dialect) for c, of_rows in columns.items())
        as_columns = (column(name, c.type) for name, c in zip(names, columns, strict=True))
        rows = func.unnest(*arrays).table_valued(*as_columns).render_derived(name="new")
        new: list[Any] = list(rows.c)
    else:
        new = [bindparam(name, type_=c.type) for name, c in zip(names, columns, strict=True)]
    changed = (
        update(next(iter(keys)).table)
        .where(*(key == value for key, value in zip(keys, new, strict=False)))
        .values(dict(zip(values, new[len(keys) :], strict=True)))
    )
    each = [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    # asyncpg does not count the rows of a statement that it runs many times
    runs: list[Any] = [None] if at_once else each if dialect.name == "postgresql" else [each]
    found = 0
    for parameters in runs:
        done: Any = await session.execute(changed, parameters, execution_options=options)
        found += done.rowcount
    return found == len(each)


def _array(of: Column[Any], values: Sequence[Any], dialect: Dialect) -> BindParameter[Any]:
    """The values as one parameter. Texts go without a length, to which PostgreSQL would cut them."""
    if element_of(of, dialect) != "TEXT" or is_json(of, dialect):
        return bindparam(None, list(values), ARRAY(of.type, dimensions=1))
    prepare = array_value(of, dialect)
    texts = [prepare(each) for each in values] if prepare else list(values)
    return bindparam(None, texts, ARRAY(Text, dimensions=1))
