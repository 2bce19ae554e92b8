"""The audit log: who changed what, in which job. Rows are added and never changed; the database sees to it."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Index
from sqlmodel import Field

from db.models.base import Base, BigId, Json, choice, created_at, primary_key


class Action(StrEnum):
    """What was done to the entity."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    RESTORE = "restore"
    PURGE = "purge"
    REPLAY = "replay"
    DISCARD = "discard"
    CANCEL = "cancel"


class AuditLog(Base, table=True):
    """One change of one entity. `before` and `after` hold the changed fields only."""

    __tablename__ = "audit_log"
    __table_args__ = (
        Index("ix_audit_log_entity", "entity_type", "entity_id", "id"),
        Index("ix_audit_log_job_id", "job_id"),
    )

    id: int = primary_key()
    entity_type: str = Field(max_length=50)
    entity_id: int = Field(sa_type=BigId)
    action: Action = Field(sa_type=choice(Action, "action"))
    actor: str = Field(max_length=200)
    before: dict[str, Any] = Field(default_factory=dict, sa_type=Json, nullable=False)
    after: dict[str, Any] = Field(default_factory=dict, sa_type=Json, nullable=False)
    job_id: str | None = Field(default=None, max_length=200)
    kind: str | None = Field(default=None, max_length=100)
    attempt: int | None = None
    trace_id: str | None = Field(default=None, max_length=64)
    at: datetime = created_at()
