"""Updates many rows, each to its own values, in one statement. Each column is one array, as in `bulk_insert`."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ARRAY, Column, Dialect, bindparam, column, func, update
from sqlalchemy.ext.asyncio import AsyncSession

Columns = Mapping[Column[Any], Sequence[Any]]  # a column → its value in each row


async def update_by_key(
    session: AsyncSession, keys: Columns, values: Columns, options: Mapping[str, Any]
) -> bool:
    """Set columns of many rows, which `keys` names by their primary keys. False if one of the rows does not exist.

    `options` are execution options. On SQLite, and for a column that is an array itself or whose type wraps its values in
    SQL, the driver runs the statement once for each row.
    """
    columns = {**keys, **values}
    names = [f"value_{n}" for n in range(len(columns))]
    dialect = session.get_bind().dialect
    at_once = dialect.name == "postgresql" and not any(_goes_alone(c, dialect) for c in columns)
    if at_once:
        arrays = (
            bindparam(None, list(of_rows), ARRAY(c.type, dimensions=1))
            for c, of_rows in columns.items()
        )
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
    done: Any = await session.execute(changed, None if at_once else each, execution_options=options)
    return done.rowcount in {-1, len(each)}  # -1: the driver does not count


def _goes_alone(of: Column[Any], dialect: Dialect) -> bool:
    of_dialect: Any = of.type.dialect_impl(dialect)
    is_array = isinstance(getattr(of_dialect, "impl_instance", of_dialect), ARRAY)
    return is_array or of_dialect._has_bind_expression  # noqa: SLF001 - there is no public way
