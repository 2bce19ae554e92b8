"""A worker: the person or agent to whom tasks are assigned. Not the process that runs jobs."""

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy import CheckConstraint
from sqlmodel import Field, Relationship

from db.models.base import Base, choice, created_at, primary_key, updated_at

if TYPE_CHECKING:
    from db.models.task import Task


class WorkerType(StrEnum):
    """Who does the work."""

    PERSON = "person"
    AGENT = "agent"


class Worker(Base, table=True):
    """The person or agent to whom tasks are assigned. Not the process that runs jobs."""

    __tablename__ = "worker"
    __table_args__ = (CheckConstraint("length(name) BETWEEN 1 AND 200", name="name_length"),)

    id: int = primary_key()
    name: str = Field(max_length=200)
    type: WorkerType = Field(default=WorkerType.PERSON, sa_type=choice(WorkerType, "type"))
    created_at: datetime = created_at()
    updated_at: datetime = updated_at()

    assigned_tasks: list["Task"] = Relationship(
        back_populates="assignee",
        sa_relationship_kwargs={"lazy": "raise", "foreign_keys": "Task.assignee_id"},
    )
