"""The steps that all writes share: lock the row, check its version, change the fields, write the audit entry."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from sqlalchemy import Select, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm.attributes import set_committed_value
from sqlalchemy.orm.util import identity_key
from sqlmodel import col

from db.errors import NotFound, VersionConflict
from db.inputs import Input
from db.models import Entity, Project, Task, Worker
from ledgerq import audit
from ledgerq.audit import Change, Origin
from ledgerq.bounds import MAX_ID
from ledgerq.sessions import flush, naming_references, reading_others, translated, write

E = TypeVar("E", bound=Entity)

_AS_IT_IS_NOW = {"populate_existing": True}  # overwrite loaded attributes with the row's values
_FOR_UPDATE: Mapping[type[Any], Select[Any]] = {  # made once, since most jobs begin with one
    table: select(table).where(table.__table__.c.id == bindparam("id")).with_for_update()  # type: ignore[union-attr]
    for table in (Project, Worker, Task)
}
MAX_AT_ONCE = 10_000  # a statement has 32,767 parameters at most


async def lock(
    session: AsyncSession, table: type[E], entity_id: int, expected_version: int | None = None
) -> E:
    """Read a row and lock it until the transaction ends, so that a second change of the row waits.

    Raises:
        NotFound: there is no such row, or it is deleted.
        VersionConflict: the row is no longer at `expected_version`, which the writer has seen. None: not checked.
    """
    entity: Any = None
    if 1 <= entity_id <= MAX_ID:
        await _write_if_waiting(session, table, entity_id)
        with translated(), reading_others(session):
            entity = await session.scalar(
                _FOR_UPDATE[table], {"id": entity_id}, execution_options=_AS_IT_IS_NOW
            )
    if entity is None:
        raise NotFound(str(table.__tablename__), entity_id)
    _require_version(entity, expected_version)
    return cast("E", entity)


def among(rows: Mapping[int, E], table: type[E], entity_id: int, expected_version: int | None) -> E:
    """The row of this id among those that `lock_rows` has locked.

    Raises:
        NotFound, VersionConflict: as `lock`.
    """
    entity = rows.get(entity_id)
    if entity is None:
        raise NotFound(str(table.__tablename__), entity_id)
    _require_version(entity, expected_version)
    return entity


def _require_version(entity: Entity, expected: int | None) -> None:
    if expected is not None and entity.version != expected:
        name = str(type(entity).__tablename__)
        raise VersionConflict(name, entity.id, expected, entity.version)


async def _write_if_waiting(session: AsyncSession, table: type[Any], entity_id: int) -> None:
    """Flush the session's own changes of the row first: the read that follows would overwrite them."""
    known = session.identity_map.get(identity_key(table, entity_id))
    if session.new or (known is not None and known in session.dirty):
        with translated():
            await session.flush()


async def add(session: AsyncSession, origin: Origin, entity: Entity) -> None:
    """Add a new row, flush it to get its id, and write its audit entry.

    Raises:
        ConstraintError: the database refuses the row; the error's class says why, its `fields` where.
    """
    session.add(entity)
    await flush(session, [entity])
    await audit.record(session, origin, Change.created(entity))


async def change(
    session: AsyncSession, origin: Origin, entity: Entity, changes: Mapping[str, Any]
) -> None:
    """Set the fields that differ, and write the audit entry. If no field differs, nothing happens.

    Raises:
        ConstraintError: the database refuses the row.
    """
    changed = set_fields(entity, changes)
    if changed:
        await write(session, entity)
        await audit.record(session, origin, changed)


def set_fields(entity: Entity, changes: Mapping[str, Any]) -> Change | None:
    """Set the fields that differ and increase the version. Returns the change; None if no field differs."""
    changed = difference(entity, changes)
    if changed:
        for field, value in changed.after.items():
            setattr(entity, field, value)
        entity.version += 1
    return changed


def difference(entity: Entity, changes: Mapping[str, Any]) -> Change | None:
    """The change from the row's values to the new ones, in the fields that differ; None if no field differs."""
    before = {field: getattr(entity, field) for field in changes}
    after = {field: value for field, value in changes.items() if value != before[field]}
    return Change.of(entity, {field: before[field] for field in after}, after) if after else None


async def update_rows(
    session: AsyncSession, tasks: Sequence[Task], values: Mapping[str, Any]
) -> None:
    """Set the same values in all of these tasks, `MAX_AT_ONCE` in a statement, and in the loaded objects.

    Raises:
        ConstraintError: the database refuses the values.
    """
    for start in range(0, len(tasks), MAX_AT_ONCE):
        some = tasks[start : start + MAX_AT_ONCE]
        rows = (
            update(Task)
            .where(col(Task.id).in_([task.id for task in some]))
            .values(**values, version=col(Task.version) + 1)
            .returning(col(Task.id), col(Task.version), col(Task.updated_at))
            .execution_options(synchronize_session=False)
        )
        async with naming_references(session, (Task(**{**t.model_dump(), **values}) for t in some)):
            written = {row.id: row for row in await session.execute(rows)}
        for task in some:
            row = written[task.id]
            kept = {**values, "version": row.version, "updated_at": row.updated_at}
            for field, value in kept.items():
                set_committed_value(task, field, value)


def what_was_set(changes: Input) -> dict[str, Any]:
    """The fields that the caller has set, with their values. A field that is left out is not set to None."""
    return {field: getattr(changes, field) for field in changes.model_fields_set}
