"""What the delivery of jobs leaves in the database: the inbox and the dead letters."""

from datetime import datetime
from typing import Any

from sqlalchemy import Index, LargeBinary, Text
from sqlmodel import Field

from db.models.base import Base, Json, created_at, primary_key


class ProcessedJob(Base, table=True):
    """The inbox: one row for each job whose effects are committed, written in the same transaction."""

    __tablename__ = "processed_job"

    job_id: str = Field(primary_key=True, max_length=200)
    kind: str = Field(max_length=100)
    payload_hash: bytes = Field(sa_type=LargeBinary)
    result: Any = Field(default=None, sa_type=Json, nullable=True)
    processed_at: datetime = created_at()


class DeadLetter(Base, table=True):
    """A job that will not be tried again, with all that is needed to see why and to replay it."""

    __tablename__ = "dead_letter"
    __table_args__ = (Index("ix_dead_letter_buried_at", "buried_at"),)

    id: int = primary_key()
    job_id: str = Field(max_length=200, unique=True)
    kind: str | None = Field(default=None, max_length=100)
    payload: Any = Field(default=None, sa_type=Json, nullable=True)
    raw: bytes | None = Field(default=None, sa_type=LargeBinary)
    reason: str = Field(max_length=50)
    error: str = Field(sa_type=Text)
    problems: Any = Field(default=None, sa_type=Json, nullable=True)
    traceback: str | None = Field(default=None, sa_type=Text)
    attempt: int
    buried_at: datetime = created_at()
