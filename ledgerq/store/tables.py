"""The tables of ledgerq: outbox, inbox, steps, dead letters, unique keys, the audit log, and the schema's versions.

`ledgerq.store.versions` has the SQL that creates them: a change here needs a new version there.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import BigInteger, Index, LargeBinary, MetaData, Text, text
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from ledgerq.columns import (
    NAMING_CONVENTION,
    NEVER_AGAIN,
    Json,
    UtcDateTime,
    choice,
    created_at,
    primary_key,
)
from ledgerq.database.own_schema import SCHEMA
from ledgerq.database.sqlstate import know

METADATA = MetaData(schema=SCHEMA, naming_convention=NAMING_CONVENTION)
know([METADATA])


class Base(SQLModel, registry=registry(metadata=METADATA)):
    """The parent class of ledgerq's tables. It has its own registry: a service may have classes of the same names."""

    metadata: ClassVar[MetaData] = METADATA
    # INSERT and UPDATE return the values that the database fills in: reading them needs no query
    __mapper_args__: ClassVar[dict[str, Any]] = {"eager_defaults": True}


class SchemaVersion(Base, table=True):
    """A version of ledgerq's schema that was applied to this database.

    `code_from` is the oldest version of the code that can work on it: code whose newest version is older refuses.
    """

    __tablename__ = "schema_version"

    version: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    code_from: int
    applied_at: datetime = created_at()


class JobState(StrEnum):
    """How a job ended. DONE and CANCELLED are final; a replay undoes DEAD."""

    DONE = "done"
    CANCELLED = "cancelled"
    DEAD = "dead"


class OutboxMessage(Base, table=True):
    """A job that was staged in its producer's own transaction. It stays until the job has ended.

    `next_dispatch_at` is when the relay puts the job on Redis, for the first time or again. If `queue` is NULL, the
    relay uses the queue that its application gives to the kind, or else its default queue.
    """

    __tablename__ = "outbox_message"
    __table_args__ = (
        Index("ix_outbox_message_due", "next_dispatch_at", "seq"),
        Index(
            "ix_outbox_message_ordering",
            "ordering_key",
            "seq",
            postgresql_where=text("ordering_key IS NOT NULL"),
        ),
        NEVER_AGAIN,
    )

    seq: int = primary_key()
    job_id: str = Field(max_length=200, unique=True)
    kind: str = Field(max_length=100)
    payload: Any = Field(sa_type=Json, nullable=False)
    actor: str = Field(max_length=200)
    trace_id: str | None = Field(default=None, max_length=64)
    ordering_key: str | None = Field(default=None, max_length=200)
    queue: str | None = Field(default=None, max_length=200)
    next_dispatch_at: datetime = created_at()
    dispatches: int = Field(default=0, sa_column_kwargs={"server_default": text("0")})
    created_at: datetime = created_at()


class ProcessedJob(Base, table=True):
    """The inbox: one row for each job that has ended, written in the transaction that ended it.

    The first transaction that adds the row decides how the job ended: a job can't be both done and dead.
    """

    __tablename__ = "processed_job"
    __table_args__ = (
        Index("ix_processed_job_processed_at", "processed_at", postgresql_using="brin"),
    )

    job_id: str = Field(primary_key=True, max_length=200)
    kind: str = Field(max_length=100)
    payload_hash: bytes = Field(sa_type=LargeBinary)
    result: Any = Field(default=None, sa_type=Json, nullable=True)
    state: JobState = Field(
        default=JobState.DONE,
        sa_type=choice(JobState, "state"),
        sa_column_kwargs={"server_default": JobState.DONE.value},
    )
    attempt: int | None = None
    processed_at: datetime = created_at()


class StepState(StrEnum):
    """How far a step is. Only `done` is final."""

    BEGUN = "begun"  # its call may have been made: the intent of a step that is called at most once
    OPEN = "open"  # a cursor: it goes on
    DONE = "done"


class JobStep(Base, table=True):
    """A recorded step or cursor of a job's `outside` function. `result` is the answer, or the cursor's value, as JSON.

    `error` says why the answer could not be kept; the step counts as done. Pruning the job's receipt deletes its steps.
    """

    __tablename__ = "job_step"

    job_id: str = Field(primary_key=True, max_length=200)
    name: str = Field(primary_key=True, max_length=100)
    state: StepState = Field(sa_type=choice(StepState, "state"))
    payload_hash: bytes = Field(sa_type=LargeBinary)
    result: Any = Field(default=None, sa_type=Json, nullable=True)
    error: str | None = Field(default=None, sa_type=Text)
    attempt: int
    worker: str | None = Field(default=None, max_length=200)
    begun_at: datetime = Field(sa_type=UtcDateTime)
    changed_at: datetime = created_at()


class JobProgress(Base, table=True):
    """How far a job says it is: so much of the total is done. It goes with the job's receipt."""

    __tablename__ = "job_progress"

    job_id: str = Field(primary_key=True, max_length=200)
    done: int = Field(sa_type=BigInteger)
    total: int | None = Field(default=None, sa_type=BigInteger)
    note: str | None = Field(default=None, max_length=200)
    at: datetime = created_at()


class DeadLetter(Base, table=True):
    """A job that will not be tried again, with the reason and all that a replay needs.

    `problems` lists each invalid field and what is wrong with it. `attempts` lists each attempt: when it ran, on which
    worker, how it failed. Letters with the same `fingerprint` failed in the same way.
    """

    __tablename__ = "dead_letter"
    __table_args__ = (
        Index("ix_dead_letter_buried_at", "buried_at"),
        Index("ix_dead_letter_fingerprint", "fingerprint"),
        NEVER_AGAIN,
    )

    id: int = primary_key()
    job_id: str = Field(max_length=200, unique=True)
    kind: str | None = Field(default=None, max_length=100)
    payload: Any = Field(default=None, sa_type=Json, nullable=True)
    raw: bytes | None = Field(default=None, sa_type=LargeBinary)
    actor: str | None = Field(default=None, max_length=200)
    trace_id: str | None = Field(default=None, max_length=64)
    reason: str = Field(max_length=50)
    error: str = Field(sa_type=Text)
    problems: Any = Field(default=None, sa_type=Json, nullable=True)
    traceback: str | None = Field(default=None, sa_type=Text)
    attempt: int
    attempts: Any = Field(default=None, sa_type=Json, nullable=True)
    worker: str | None = Field(default=None, max_length=200)
    fingerprint: str | None = Field(default=None, max_length=16)
    queue: str | None = Field(default=None, max_length=200)
    buried_at: datetime = created_at()


class UniqueKey(Base, table=True):
    """A unique key and the job that holds it. Until `expires_at`, staging under the key yields that job."""

    __tablename__ = "unique_key"
    __table_args__ = (
        Index("ix_unique_key_expires_at", "expires_at"),
        Index("ix_unique_key_job_id", "job_id"),
    )

    kind: str = Field(primary_key=True, max_length=100)
    key: str = Field(primary_key=True, max_length=200)
    job_id: str = Field(max_length=200)
    expires_at: datetime = Field(sa_type=UtcDateTime)


class Action(StrEnum):
    """What was done to an entity: the actions that ledgerq itself uses. An application may use other words too.

    ```python
    await context.record(Change.gone(order, Action.PURGE), Change.of(card, {}, {"number": "***"}, "blocked"))
    ```
    """

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    RESTORE = "restore"
    PURGE = "purge"
    REPLAY = "replay"
    DISCARD = "discard"
    CANCEL = "cancel"


class AuditLog(Base, table=True):
    """One change of one entity. `before` and `after` hold the changed fields only.

    `entity_id` is the entity's key as text.
    """

    __tablename__ = "audit_log"
    __table_args__ = (
        Index("ix_audit_log_entity", "entity_type", "entity_id", "id"),
        Index("ix_audit_log_job_id", "job_id"),
    )

    id: int = primary_key()
    entity_type: str = Field(max_length=128)
    entity_id: str = Field(max_length=200)
    action: str = Field(max_length=50)
    actor: str = Field(max_length=200)
    before: dict[str, Any] = Field(default_factory=dict, sa_type=Json, nullable=False)
    after: dict[str, Any] = Field(default_factory=dict, sa_type=Json, nullable=False)
    job_id: str | None = Field(default=None, max_length=200)
    kind: str | None = Field(default=None, max_length=100)
    attempt: int | None = None
    trace_id: str | None = Field(default=None, max_length=64)
    at: datetime = created_at()
