"""The audit log. Every function that changes a table calls `record` in the same transaction."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias
from uuid import UUID

from sqlalchemy import inspect, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import SQLModel, col

from ledgerq.bounds import MAX_IN_A_LIST, cursor, is_storable, require_limit
from ledgerq.database.bulk_insert import insert_rows
from ledgerq.database.own_schema import reach_our_tables
from ledgerq.errors import Refused
from ledgerq.store.tables import Action, AuditLog

EntityId: TypeAlias = str | int | UUID  # a key; the log keeps its text

_MAX_ACTOR = 200
_MAX_ATTEMPTS = 2**31 - 1
_KEPT_BY_THE_DATABASE = {"id", "version", "created_at", "updated_at"}


@dataclass(frozen=True, slots=True)
class Origin:
    """Who causes a change, and in which job if it is in one."""

    actor: str
    job_id: str | None = None
    kind: str | None = None
    attempt: int | None = None
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to one entity. `before` and `after` hold the changed fields only.

    `action` is a word of `Action`, or one of the application's own.
    """

    entity_type: str
    entity_id: EntityId
    action: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]

    @classmethod
    def created(cls, entity: SQLModel) -> "Change":
        """The entity is new, and flushed: all that it holds is what changed."""
        return cls(_table_of(entity), _id_of(entity), Action.CREATE, {}, _filled(entity))

    @classmethod
    def inserted(cls, entity_type: str, entity_id: EntityId, values: Mapping[str, Any]) -> "Change":
        """A row was inserted by a statement, not by the session: what `created` says of an object."""
        return cls(entity_type, entity_id, Action.CREATE, {}, _with_values(values))

    @classmethod
    def of(
        cls,
        entity: SQLModel,
        before: Mapping[str, Any],
        after: Mapping[str, Any],
        action: str = Action.UPDATE,
    ) -> "Change":
        """Some fields of the entity changed."""
        return cls(_table_of(entity), _id_of(entity), action, before, after)

    @classmethod
    def gone(cls, entity: SQLModel, action: str) -> "Change":
        """The row is gone for good: the log keeps what it held."""
        return cls(_table_of(entity), _id_of(entity), action, _filled(entity), {})


async def record(session: AsyncSession, origin: Origin, *changes: Change) -> None:
    """Write one entry for each change, in one statement.

    Raises:
        Refused: the origin is such as the log can't keep; an author is never lost.
    """
    await record_many(session, [(origin, change) for change in changes])


async def record_many(session: AsyncSession, changes: Iterable[tuple[Origin, Change]]) -> None:
    """The same for changes of several origins. Raises as `record`."""
    entries, checked = list[dict[str, Any]](), None
    for origin, change in changes:
        if origin is not checked:  # mostly, all are of one
            _check(origin)
            checked = origin
        entries.append(_entry(origin, change))
    gathered = getattr(session.sync_session, "gathered", None)
    if gathered is not None:
        gathered.extend(entries)
    elif entries:
        await reach_our_tables(session)
        await insert_rows(session, AuditLog, entries)


@asynccontextmanager
async def buffered_entries(session: AsyncSession) -> AsyncIterator[None]:
    """What is recorded inside the block is written at its end, in one statement of the same transaction."""
    sync: Any = session.sync_session
    gathered = sync.gathered = []
    sync.marks = {}
    try:
        yield
    finally:
        sync.gathered = None
    await insert_rows(session, AuditLog, gathered)


async def history(
    session: AsyncSession,
    entity_type: str,
    entity_id: EntityId,
    *,
    after_id: int = 0,
    limit: int = 100,
) -> Sequence[AuditLog]:
    """What happened to an entity, oldest first; the next page begins after this one's last id.

    Raises:
        Refused: the limit is out of range.
    """
    require_limit(limit, MAX_IN_A_LIST)
    key = key_text(entity_id)
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


async def of_job(session: AsyncSession, job_id: str, *, limit: int = 100) -> Sequence[AuditLog]:
    """What a job did, and what was done to it, oldest first.

    Raises:
        Refused: the limit is out of range.
    """
    require_limit(limit, MAX_IN_A_LIST)
    if not is_storable(job_id):
        return []
    await reach_our_tables(session)
    entries = select(AuditLog).where(col(AuditLog.job_id) == job_id)
    return (await session.scalars(entries.order_by(col(AuditLog.id)).limit(limit))).all()


def _entry(origin: Origin, change: Change) -> dict[str, Any]:
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


def _check(origin: Origin) -> None:
    """An author who can't be kept is refused: nothing else is put in the place of one."""
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
    return value.isprintable() or is_storable(value)  # the former is quick, and says more


def key_text(entity_id: EntityId) -> str:
    """The key as the log keeps it: a number in digits, a UUID in its usual form."""
    return entity_id if type(entity_id) is str else str(entity_id)


def _table_of(entity: SQLModel) -> str:
    return str(entity.__tablename__)


def _id_of(entity: SQLModel) -> EntityId:
    return getattr(entity, _key_of(type(entity)))  # type: ignore[no-any-return]


@cache
def _key_of(table: type[SQLModel]) -> str:
    """The attribute that is its primary key."""
    mapper = inspect(table)
    [column] = mapper.primary_key
    return str(mapper.get_property_by_column(column).key)


def _filled(entity: SQLModel) -> dict[str, Any]:
    return _with_values(entity.model_dump(exclude=_KEPT_BY_THE_DATABASE))


def _with_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a new row holds: the values that say something."""
    return {field: value for field, value in values.items() if value is not None and value != []}
