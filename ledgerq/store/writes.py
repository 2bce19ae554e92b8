"""Writing rows: at once, or deferred where jobs share a transaction; with errors that name the field."""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from sqlalchemy import ForeignKeyConstraint, exists, inspect, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import SQLModel

from ledgerq.database.sqlstate import translated
from ledgerq.errors import MissingReference
from ledgerq.store.audit import buffered_entries


@asynccontextmanager
async def deferred_writes(session: AsyncSession) -> AsyncIterator[None]:
    """Changes made inside the block are written at its end at the latest: all rows together, all entries together.

    So an error of the database comes late and does not say whose it is: for batches, which are then split.
    """
    sync: Any = session.sync_session
    sync.waiting, sync.met = {}, []
    try:
        async with buffered_entries(session):
            yield
            await flush(session, list(session.dirty))
    finally:
        sync.waiting = sync.met = None


async def write(session: AsyncSession, entity: SQLModel) -> None:
    """Write a row that was changed, now or at the end of `deferred_writes`.

    Raises:
        ConstraintError: the database refuses the row.
    """
    sync: Any = session.sync_session
    waiting, recorder = getattr(sync, "waiting", None), getattr(sync, "recorder", None)
    if waiting is None or (recorder and recorder.rules_of(type(entity))):  # its entry is its job's
        await flush(session, [entity])
    else:
        waiting[id(entity)] = entity


@contextmanager
def reading_others(session: AsyncSession) -> Iterator[None]:
    """What is read inside the block is of other rows than those that wait: it does not write them first."""
    sync: Any = session.sync_session
    sync.locking = True
    try:
        with session.no_autoflush:
            yield
    finally:
        sync.locking = False


async def flush(session: AsyncSession, entities: Iterable[SQLModel]) -> None:
    """Write what was added and changed.

    Raises:
        ConstraintError: the database refuses a row.
    """
    if session.get_bind().dialect.name == "sqlite":
        for entity in entities:
            await _check_references(session, entity)
    with translated():
        await session.flush()


@asynccontextmanager
async def naming_references(session: AsyncSession, rows: Iterable[SQLModel]) -> AsyncIterator[None]:
    """As `translated`, for statements past the session; `rows` is what they write, if it must be searched.

    Raises:
        ConstraintError: with the field, on SQLite too.
    """
    try:
        with translated():
            yield
    except MissingReference as error:
        if not error.fields:
            for row in rows:
                await _check_references(session, row)
        raise


async def _check_references(session: AsyncSession, entity: SQLModel) -> None:
    """SQLite does not say which reference is broken: look for it.

    Raises:
        MissingReference: with the field.
    """
    table = inspect(type(entity)).local_table
    constraints = (c for c in table.constraints if isinstance(c, ForeignKeyConstraint))
    for constraint in constraints:
        pairs = [
            (element.column, getattr(entity, element.parent.name))
            for element in constraint.elements
        ]
        if any(value is None for _, value in pairs):
            continue
        target = select(exists().where(*(column == value for column, value in pairs)))
        with session.no_autoflush:
            if not await session.scalar(target):
                raise MissingReference(str(constraint.name), (constraint.column_keys[0],))
