"""The audit log. Every function that changes a table calls `record` in the same transaction."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from db.arrays import insert_rows
from db.models import Action, AuditLog, Project, Task, Worker

Entity = Project | Worker | Task

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
    def created(cls, entity: Entity) -> "Change":
        """The entity is new, and flushed: all that it holds is what changed."""
        return cls(entity.__tablename__, entity.id, Action.CREATE, {}, _filled(entity))

    @classmethod
    def of(
        cls,
        entity: Entity,
        before: Mapping[str, Any],
        after: Mapping[str, Any],
        action: Action = Action.UPDATE,
    ) -> "Change":
        """Some fields of the entity changed."""
        return cls(entity.__tablename__, entity.id, action, before, after)

    @classmethod
    def gone(cls, entity: Entity, action: Action) -> "Change":
        """The row is gone for good: the log keeps what it held."""
        return cls(entity.__tablename__, entity.id, action, _filled(entity), {})


async def record(session: AsyncSession, origin: Origin, *changes: Change) -> None:
    """Write one entry for each change, in one statement."""
    await record_many(session, [(origin, change) for change in changes])


async def record_many(session: AsyncSession, changes: Iterable[tuple[Origin, Change]]) -> None:
    """The same for changes of several origins."""
    entries = [_entry(origin, change) for origin, change in changes]
    gathered = getattr(session.sync_session, "gathered", None)
    if gathered is not None:
        gathered.extend(entries)
    elif entries:
        await insert_rows(session, AuditLog, entries)


@asynccontextmanager
async def gathering(session: AsyncSession) -> AsyncIterator[None]:
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
    """What happened to an entity, oldest first; the next page begins after this one's last id."""
    entries = (
        select(AuditLog)
        .where(
            col(AuditLog.entity_type) == entity_type,
            col(AuditLog.entity_id) == entity_id,
            col(AuditLog.id) > after_id,
        )
        .order_by(col(AuditLog.id))
        .limit(limit)
    )
    return (await session.scalars(entries)).all()


async def of_job(session: AsyncSession, job_id: str, *, limit: int = 100) -> Sequence[AuditLog]:
    """What a job did, and what was done to it, oldest first."""
    entries = select(AuditLog).where(col(AuditLog.job_id) == job_id)
    return (await session.scalars(entries.order_by(col(AuditLog.id)).limit(limit))).all()


def _entry(origin: Origin, change: Change) -> dict[str, Any]:
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


def _filled(entity: Entity) -> dict[str, Any]:
    return filled(entity.model_dump(exclude=_KEPT_BY_THE_DATABASE))


def filled(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a new row holds: the values that say something."""
    return {field: value for field, value in values.items() if value is not None and value != []}
