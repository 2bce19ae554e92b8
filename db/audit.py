"""Writing the audit log. Every function that changes a table calls `record` in the same transaction."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_jsonable_python
from sqlalchemy import insert, inspect
from sqlalchemy.ext.asyncio import AsyncSession

from db.models import Action, AuditLog, Base


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

    entity: Base
    action: Action
    before: Mapping[str, Any]
    after: Mapping[str, Any]

    @classmethod
    def created(cls, entity: Base) -> "Change":
        """The entity is new: all that it holds is what changed."""
        return cls(entity, Action.CREATE, {}, _filled(entity))

    @classmethod
    def purged(cls, entity: Base) -> "Change":
        """The entity is gone for good: the log keeps what it held."""
        return cls(entity, Action.PURGE, _filled(entity), {})


async def record(session: AsyncSession, origin: Origin, *changes: Change) -> None:
    """Write one entry for each change, in one statement. The entities must be flushed: they need ids."""
    if changes:
        await session.execute(insert(AuditLog), [_entry(origin, change) for change in changes])


def _entry(origin: Origin, change: Change) -> dict[str, Any]:
    return {
        "entity_type": type(change.entity).__tablename__,
        "entity_id": inspect(change.entity).identity[0],
        "action": change.action,
        "actor": origin.actor,
        "before": to_jsonable_python(change.before),
        "after": to_jsonable_python(change.after),
        "job_id": origin.job_id,
        "kind": origin.kind,
        "attempt": origin.attempt,
        "trace_id": origin.trace_id,
    }


_KEPT_BY_THE_DATABASE = {"id", "version", "created_at", "updated_at"}


def _filled(entity: Base) -> dict[str, Any]:
    values = entity.model_dump(exclude=_KEPT_BY_THE_DATABASE)
    return {field: value for field, value in values.items() if value not in (None, [])}
