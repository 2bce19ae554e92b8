"""The audit log: who changed what, in which job. Rows are added and never changed; the database sees to it."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import DDL, Index, event
from sqlmodel import Field

from db.models.base import Base, BigId, Json, choice, created_at, primary_key


class Action(StrEnum):
    """What was done to the entity."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    RESTORE = "restore"
    PURGE = "purge"


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


# The migrations hold the same statements: a migration must never change when the code does.
APPEND_ONLY_POSTGRESQL = (
    """
    CREATE FUNCTION audit_log_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'audit_log is append-only: % refused', TG_OP
            USING ERRCODE = 'insufficient_privilege';
    END $$
    """,
    """
    CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_log_refuse()
    """,
    # fires for session_replication_role = replica too
    "ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_append_only",
)
APPEND_ONLY_SQLITE = (
    """
    CREATE TRIGGER audit_log_no_update BEFORE UPDATE ON audit_log
    BEGIN SELECT RAISE(ABORT, 'audit_log is append-only: UPDATE refused'); END
    """,
    """
    CREATE TRIGGER audit_log_no_delete BEFORE DELETE ON audit_log
    BEGIN SELECT RAISE(ABORT, 'audit_log is append-only: DELETE refused'); END
    """,
    # INSERT OR REPLACE deletes the old row without firing its DELETE trigger
    """
    CREATE TRIGGER audit_log_no_replace BEFORE INSERT ON audit_log
    WHEN EXISTS (SELECT 1 FROM audit_log WHERE id = NEW.id)
    BEGIN SELECT RAISE(ABORT, 'audit_log is append-only: REPLACE refused'); END
    """,
)

for _dialect, _statements in (
    ("postgresql", APPEND_ONLY_POSTGRESQL),
    ("sqlite", APPEND_ONLY_SQLITE),
):
    for _statement in _statements:
        event.listen(
            AuditLog.__table__,  # type: ignore[attr-defined]
            "after_create",
            DDL(  # type: ignore[no-untyped-call]
                _statement.replace("%", "%%")
            ).execute_if(dialect=_dialect),
        )
