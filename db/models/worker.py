"""A worker: the person or agent to whom tasks are assigned. Not the process that runs jobs."""

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy import CheckConstraint, Text
from sqlmodel import Field

from db.models.base import Base, related, updated_at, version
from ledgerq.columns import NEVER_AGAIN, choice, created_at, primary_key

if TYPE_CHECKING:
    from db.models.task import Task


class WorkerType(StrEnum):
    """Who does the work."""

    PERSON = "person"
    AGENT = "agent"


class Worker(Base, table=True):
    """The person or agent to whom tasks are assigned. Not the process that runs jobs.

    When a worker is deleted, its tasks stay, assigned to nobody (set null).
    """

    __tablename__ = "worker"
    __table_args__ = (
        CheckConstraint("length(name) BETWEEN 1 AND 200", name="name_length"),
        NEVER_AGAIN,
    )

    id: int = primary_key()
    name: str = Field(sa_type=Text)
    type: WorkerType = Field(
        default=WorkerType.PERSON,
        sa_type=choice(WorkerType, "type"),
        sa_column_kwargs={"server_default": WorkerType.PERSON},
    )
    version: int = version()
    created_at: datetime = created_at()
    updated_at: datetime = updated_at()

    assigned_tasks: list["Task"] = related(
        back_populates="assignee", foreign_keys="Task.assignee_id", passive_deletes="all"
    )
