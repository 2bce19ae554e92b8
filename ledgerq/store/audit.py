"""The audit log. Every function that changes a table calls `record` in the same transaction."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import inspect, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import SQLModel, col

from ledgerq.bounds import MAX_ID, MAX_IN_A_LIST, cursor, is_id, is_storable, require_limit
from ledgerq.database.bulk_insert import insert_rows
from ledgerq.errors import Refused
from ledgerq.store.tables import Action, AuditLog

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
    """What happened to one entity. `before` and `after` hold the changed fields only."""

    entity_type: str
    entity_id: int
    action: Action
    before: Mapping[str, Any]
    after: Mapping[str, Any]

    @classmethod
    def created(cls, entity: SQLModel) -> "Change":
        """The entity is new, and flushed: all that it holds is what changed."""
        return cls(_table_of(entity), _id_of(entity), Action.CREATE, {}, _filled(entity))

    @classmethod
    def inserted(cls, entity_type: str, entity_id: int, values: Mapping[str, Any]) -> "Change":
        """A row was inserted by a statement, not by the session: what `created` says of an object."""
        return cls(entity_type, entity_id, Action.CREATE, {}, _with_values(values))

    @classmethod
    def of(
        cls,
        entity: SQLModel,
        before: Mapping[str, Any],
        after: Mapping[str, Any],
        action: Action = Action.UPDATE,
    ) -> "Change":
        """Some fields of the entity changed."""
        return cls(_table_of(entity), _id_of(entity), action, before, after)

    @classmethod
    def gone(cls, entity: SQLModel, action: Action) -> "Change":
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
    session: AsyncSession, entity_type: str, entity_id: int, *, after_id: int = 0, limit: int = 100
) -> Sequence[AuditLog]:
    """What happened to an entity, oldest first; the next page begins after this one's last id.

    Raises:
        Refused: the limit is out of range.
    """
    require_limit(limit, MAX_IN_A_LIST)
    if not is_storable(entity_type) or not _has_entries(entity_id):
        return []
    entries = (
        select(AuditLog)
        .where(
            col(AuditLog.entity_type) == entity_type,
            col(AuditLog.entity_id) == entity_id,
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
    entries = select(AuditLog).where(col(AuditLog.job_id) == job_id)
    return (await session.scalars(entries.order_by(col(AuditLog.id)).limit(limit))).all()


def _entry(origin: Origin, change: Change) -> dict[str, Any]:
    if not _fits(change.entity_type, 50):
        raise Refused("entity_type", "must have at most 50 characters, no NUL")
    if not _has_entries(change.entity_id):
        raise Refused("entity_id", f"must be 0 to {MAX_ID}")
    return {
        "entity_type": change.entity_type,
        "entity_id": change.entity_id,
        "action": change.action,
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


def _has_entries(entity_id: object) -> bool:
    """True of ids, and of 0, which stands for what has none."""
    return entity_id == 0 or is_id(entity_id)


def _table_of(entity: SQLModel) -> str:
    return str(entity.__tablename__)


def _id_of(entity: SQLModel) -> int:
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
