"""A task, its subtasks, and how its status may move."""

from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Optional

from sqlalchemy import CheckConstraint, Index, Text, text
from sqlmodel import Field, Relationship

from db.models.base import (
    Base,
    Json,
    choice,
    created_at,
    moment,
    primary_key,
    reference,
    updated_at,
)

if TYPE_CHECKING:
    from db.models.project import Project
    from db.models.worker import Worker


class TaskStatus(StrEnum):
    """Where a task stands."""

    TODO = "todo"
    IN_PROGRESS = "in_progress"
    BLOCKED = "blocked"
    DONE = "done"
    CANCELLED = "cancelled"


class TaskPriority(StrEnum):
    """How much a task matters."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    URGENT = "urgent"


LEGAL_MOVES = MappingProxyType(
    {
        TaskStatus.TODO: (TaskStatus.IN_PROGRESS, TaskStatus.BLOCKED, TaskStatus.CANCELLED),
        TaskStatus.IN_PROGRESS: (
            TaskStatus.TODO,
            TaskStatus.BLOCKED,
            TaskStatus.DONE,
            TaskStatus.CANCELLED,
        ),
        TaskStatus.BLOCKED: (TaskStatus.TODO, TaskStatus.IN_PROGRESS, TaskStatus.CANCELLED),
        TaskStatus.DONE: (TaskStatus.IN_PROGRESS,),  # reopened
        TaskStatus.CANCELLED: (TaskStatus.TODO,),  # reconsidered
    }
)


class Task(Base, table=True):
    """A piece of work in a project; it may be part of a parent task."""

    __tablename__ = "task"
    __table_args__ = (
        CheckConstraint("length(title) BETWEEN 1 AND 500", name="title_length"),
        CheckConstraint("parent_task_id <> id", name="not_own_parent"),
        Index("ix_task_deleted_at", "deleted_at", postgresql_where=text("deleted_at IS NOT NULL")),
    )

    id: int = primary_key()
    title: str = Field(max_length=500)
    description: str | None = Field(default=None, sa_type=Text)
    status: TaskStatus = Field(default=TaskStatus.TODO, sa_type=choice(TaskStatus, "status"))
    priority: TaskPriority = Field(
        default=TaskPriority.NORMAL, sa_type=choice(TaskPriority, "priority")
    )
    tags: list[str] = Field(
        default_factory=list,
        sa_type=Json,
        nullable=False,
        sa_column_kwargs={"server_default": text("'[]'")},
    )
    project_id: int = reference("project.id", nullable=False)
    assignee_id: int | None = reference("worker.id")
    created_by_id: int | None = reference("worker.id")
    parent_task_id: int | None = reference("task.id")
    due_at: datetime | None = moment()
    created_at: datetime = created_at()
    updated_at: datetime = updated_at()
    deleted_at: datetime | None = moment()

    project: "Project" = Relationship(
        back_populates="tasks", sa_relationship_kwargs={"lazy": "raise"}
    )
    assignee: Optional["Worker"] = Relationship(
        back_populates="assigned_tasks",
        sa_relationship_kwargs={"lazy": "raise", "foreign_keys": "Task.assignee_id"},
    )
    created_by: Optional["Worker"] = Relationship(
        sa_relationship_kwargs={"lazy": "raise", "foreign_keys": "Task.created_by_id"},
    )
    parent: Optional["Task"] = Relationship(
        back_populates="subtasks",
        sa_relationship_kwargs={"lazy": "raise", "remote_side": "Task.id"},
    )
    subtasks: list["Task"] = Relationship(
        back_populates="parent", sa_relationship_kwargs={"lazy": "raise"}
    )
