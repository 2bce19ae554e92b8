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
    """Collect the rows given to `write`, and all audit entries, and write them at the block's end at the latest, together.

    A database error then comes late and does not say which job caused it. So this is for groups of jobs, which are split
    after an error.
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
    """Write a changed row: at once, or at the end of the `deferred_writes` block around the call.

    Raises:
        ConstraintError: the database refuses the row.
    """
    sync: Any = session.sync_session
    waiting, recorder = getattr(sync, "waiting", None), getattr(sync, "recorder", None)
    # an audited row is flushed at once, while the session knows which job changes it
    if waiting is None or (recorder and recorder.rules_of(type(entity))):
        await flush(session, [entity])
    else:
        waiting[id(entity)] = entity


@contextmanager
def reading_others(session: AsyncSession) -> Iterator[None]:
    """Inside the block, reads do not write pending or deferred changes first: for rows that these changes do not concern."""
    sync: Any = session.sync_session
    sync.locking = True
    try:
        with session.no_autoflush:
            yield
    finally:
        sync.locking = False


async def flush(session: AsyncSession, entities: Iterable[SQLModel]) -> None:
    """Flush the session. On SQLite, first check the references of `entities`, so that an error can name the field.

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
    """As `translated`, for statements that bypass the session. `rows` are the rows that the statements write.

    SQLite does not say which reference is broken, so `rows` are then searched for it.

    Raises:
        ConstraintError: the database refuses a row; names the field, on SQLite too.
    """
    try:
        with translated():
            yield
    except MissingReference as error:
        if session.get_bind().dialect.name == "sqlite" and not error.fields:
            for row in rows:
                await _check_references(session, row)
        raise


async def _check_references(session: AsyncSession, entity: SQLModel) -> None:
    """Look up the rows that the entity refers to, since SQLite does not say which reference is broken.

    Raises:
        MissingReference: a referenced row does not exist; names the field.
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
