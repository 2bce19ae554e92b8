"""The audit log. A function that changes a table by hand calls `record` in the same transaction."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_jsonable_python
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from ledgerq.bounds import MAX_IN_A_LIST, cursor, is_storable, require_limit
from ledgerq.database.bulk_insert import insert_rows
from ledgerq.database.own_schema import reach_our_tables
from ledgerq.errors import Refused
from ledgerq.store.entities import (
    Key,
    entity_type_of,
    filled,
    key_of,
    key_text,
    key_text_in,
    says_something,
)
from ledgerq.store.tables import Action, AuditLog

_MAX_ACTOR = 200
_MAX_ATTEMPTS = 2**31 - 1
_KEPT_BY_THE_DATABASE = {"id", "version", "created_at", "updated_at"}


@dataclass(frozen=True, slots=True)
class Origin:
    """Who causes a change, and in which job. Outside of a job, only `actor` is given, and perhaps `trace_id`.

    ```python
    async with transaction(sessions) as session, acting_as(session, Origin("user:42")):
        session.add(order)
    ```
    """

    actor: str
    job_id: str | None = None
    kind: str | None = None
    attempt: int | None = None
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to one entity. `before` and `after` hold the changed fields only.

    `entity_id` is the row's key: a number, a UUID, a text, or a tuple of them (see `key_text`). `action` is one of
    `Action`, or another word of 1 to 50 printable characters.

    ```python
    await context.record(Change("shelf", ("hall 3", 17), "emptied", {"boxes": 12}, {"boxes": 0}))
    ```
    """

    entity_type: str
    entity_id: Key
    action: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]

    @classmethod
    def created(cls, entity: object) -> "Change":
        """The change of a flushed new entity: its loaded values except None, [], id, version, created_at and updated_at."""
        return cls(
            entity_type_of(type(entity)),
            key_of(entity),
            Action.CREATE,
            {},
            filled(entity, _KEPT_BY_THE_DATABASE),
        )

    @classmethod
    def inserted(cls, entity_type: str, entity_id: Key, values: Mapping[str, Any]) -> "Change":
        """The change of a row that an SQL statement inserted. Shows `values`, by column, except None and empty lists."""
        return cls(entity_type, entity_id, Action.CREATE, {}, says_something(values))

    @classmethod
    def of(
        cls,
        entity: object,
        before: Mapping[str, Any],
        after: Mapping[str, Any],
        action: str = Action.UPDATE,
    ) -> "Change":
        """Fields of the entity changed: from the values in `before` to those in `after`."""
        return cls(entity_type_of(type(entity)), key_of(entity), action, before, after)

    @classmethod
    def gone(cls, entity: object, action: str) -> "Change":
        """The change of a deleted entity: its loaded values except None, [], id, version, created_at and updated_at."""
        return cls(
            entity_type_of(type(entity)),
            key_of(entity),
            action,
            filled(entity, _KEPT_BY_THE_DATABASE),
            {},
        )


async def record(session: AsyncSession, origin: Origin, *changes: Change) -> None:
    """Write one entry for each change, in one statement. What `Audited` masks or excludes is hidden in these entries too.

    Raises:
        Refused: the log can't store the origin or a change as it is; the error names the field.
    """
    await record_many(session, [(origin, change) for change in changes])


async def record_many(session: AsyncSession, changes: Iterable[tuple[Origin, Change]]) -> None:
    """As `record`, for changes of several origins."""
    entries, checked = list[dict[str, Any]](), None
    recorder = getattr(session.sync_session, "recorder", None)
    for origin, change in changes:
        if origin is not checked:  # mostly, all changes have the same origin
            check_origin(origin)
            checked = origin
        entries.append(entry_of(origin, recorder.shown(change) if recorder else change))
    await write_entries(session, entries)


async def write_entries(session: AsyncSession, entries: Sequence[dict[str, Any]]) -> None:
    """Write entries that `entry_of` made, in one statement; inside a `buffered_entries` block, at its end."""
    gathered = getattr(session.sync_session, "gathered", None)
    if gathered is not None:
        gathered += [{**each, **_as_they_are(each)} for each in entries]
    elif entries:
        await reach_our_tables(session)
        await insert_rows(session, AuditLog, entries)


def _as_they_are(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry's JSON as it is now: the handler may change the values before they are written."""
    return {name: to_jsonable_python(entry[name]) for name in ("before", "after")}


@asynccontextmanager
async def buffered_entries(session: AsyncSession) -> AsyncIterator[None]:
    """Collect the entries that are recorded inside the block, and write them all at its end."""
    sync: Any = session.sync_session
    gathered = sync.gathered = []
    sync.marks = {}
    try:
        yield
    finally:
        sync.gathered = None
    await write_entries(session, gathered)


async def history(
    session: AsyncSession,
    entity: str | type[Any],
    entity_id: Key,
    *,
    after_id: int = 0,
    limit: int = 100,
) -> Sequence[AuditLog]:
    """The entries of an entity, oldest first. For the next page, pass the `id` of this page's last entry as `after_id`.

        entries = await audit.history(session, Order, order_id)

    `entity` is the class, or the name of its table as the log stores it. `entity_id` is the key: a number, a UUID, a
    text, or a tuple of the parts of a composite key.

    Raises:
        Refused: the limit is out of range.
    """
    require_limit(limit, MAX_IN_A_LIST)
    if isinstance(entity, str):
        entity_type, key = entity, key_text(entity_id)
    else:
        entity_type, key = entity_type_of(entity), key_text_in(entity, entity_id)
    if not is_storable(entity_type) or not is_storable(key):
        return []
    await reach_our_tables(session)
    entries = (
        select(AuditLog)
        .where(
            col(AuditLog.entity_type) == entity_type,
            col(AuditLog.entity_id) == key,
            col(AuditLog.id) > cursor(after_id),
        )
        .order_by(col(AuditLog.id))
        .limit(limit)
    )
    return (await session.scalars(entries)).all()


async def of_job(
    session: AsyncSession, job_id: str, *, after_id: int = 0, limit: int = 100
) -> Sequence[AuditLog]:
    """The entries of what a job did and of what was done to it, oldest first; with pages as in `history`.

    Raises:
        Refused: the limit is out of range.
    """
    require_limit(limit, MAX_IN_A_LIST)
    if not is_storable(job_id):
        return []
    await reach_our_tables(session)
    entries = select(AuditLog).where(
        col(AuditLog.job_id) == job_id, col(AuditLog.id) > cursor(after_id)
    )
    return (await session.scalars(entries.order_by(col(AuditLog.id)).limit(limit))).all()


def checked_entry(origin: Origin, change: Change) -> dict[str, Any]:
    """As `entry_of`, for an origin that was not checked.

    Raises:
        Refused: the log can't store the origin or the change; names the field.
    """
    check_origin(origin)
    return entry_of(origin, change)


def entry_of(origin: Origin, change: Change) -> dict[str, Any]:
    """The entry's columns for a change whose origin was checked.

    Raises:
        Refused: the log can't store the change; names the field.
    """
    key = key_text(change.entity_id)
    if not _fits(change.entity_type, 128):
        raise Refused("entity_type", "must have at most 128 characters, no NUL")
    if not key or not _fits(key, 200):
        raise Refused("entity_id", "must have 1 to 200 characters, no NUL")
    if not change.action or not _fits(change.action, 50) or not change.action.isprintable():
        raise Refused("action", "must have 1 to 50 printable characters")
    return {
        "entity_type": change.entity_type,
        "entity_id": key,
        "action": str(change.action),
        "actor": origin.actor,
        "before": change.before,
        "after": change.after,
        "job_id": origin.job_id,
        "kind": origin.kind,
        "attempt": origin.attempt,
        "trace_id": origin.trace_id,
    }


def check_origin(origin: Origin) -> None:
    """Refuse an origin that the log can't store, for example because a text holds NUL.

    Raises:
        Refused: names the field, and what is wrong with it.
    """
    actor = origin.actor
    if not _fits(actor, _MAX_ACTOR) or not actor or not actor.isprintable():
        raise Refused("actor", "must have 1 to 200 printable characters")
    for field, value, longest in (
        ("job_id", origin.job_id, 200),
        ("kind", origin.kind, 100),
        ("trace_id", origin.trace_id, 64),
    ):
        if value is not None and not _fits(value, longest):
            raise Refused(field, f"must have at most {longest} characters, no NUL")
    if origin.attempt is not None and not 0 <= origin.attempt <= _MAX_ATTEMPTS:
        raise Refused("attempt", f"must be 0 to {_MAX_ATTEMPTS}")


def _fits(value: object, longest: int) -> bool:
    if not isinstance(value, str) or len(value) > longest:
        return False
    return value.isprintable() or is_storable(value)  # isprintable is quick, and mostly enough
