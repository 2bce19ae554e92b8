"""A task, its subtasks, and the allowed changes of its status."""

from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Optional

from sqlalchemy import (
    CheckConstraint,
    ForeignKeyConstraint,
    Text,
    UniqueConstraint,
    text,
)
from sqlmodel import Field

from db.models.base import (
    Base,
    FixedTexts,
    moment,
    partial_index,
    reference,
    related,
    updated_at,
    version,
)
from ledgerq.columns import NEVER_AGAIN, BigId, choice, created_at, primary_key

if TYPE_CHECKING:
    from db.models.project import Project
    from db.models.worker import Worker


class TaskStatus(StrEnum):
    """The state of a task's work."""

    TODO = "todo"
    IN_PROGRESS = "in_progress"
    BLOCKED = "blocked"
    DONE = "done"
    CANCELLED = "cancelled"


class TaskPriority(StrEnum):
    """How urgent a task is."""

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


def _no_tags() -> list[str]:
    # not `list`: pydantic asks for the factory's signature at each new task, which takes 0.1 ms for a built-in
    return []


class Task(Base, table=True):
    """A piece of work in a project. It may be a subtask of another task of the same project.

    Deleting a task marks it and its subtasks at any depth as deleted (cascade). A purge deletes the rows later.
    """

    __tablename__ = "task"
    __table_args__ = (
        CheckConstraint("length(title) BETWEEN 1 AND 500", name="title_length"),
        CheckConstraint("parent_task_id <> id", name="parent_task_id_not_own"),
        CheckConstraint("jsonb_typeof(tags) = 'array'", name="tags_is_list").ddl_if("postgresql"),
        UniqueConstraint("project_id", "id"),  # for the next foreign key, and an index for lists
        ForeignKeyConstraint(["parent_task_id", "project_id"], ["task.id", "task.project_id"]),
        partial_index("ix_task_deleted_at", "deleted_at", where="deleted_at IS NOT NULL"),
        partial_index(
            "ix_task_assignee_id_id", "assignee_id", "id", where="assignee_id IS NOT NULL"
        ),
        partial_index("ix_task_created_by_id", "created_by_id", where="created_by_id IS NOT NULL"),
        partial_index(
            "ix_task_parent_task_id", "parent_task_id", where="parent_task_id IS NOT NULL"
        ),
        partial_index(
            "ix_task_due_at_id", "due_at", "id", where="due_at IS NOT NULL AND deleted_at IS NULL"
        ),
        partial_index(
            "ix_task_tags",
            "tags",
            where="tags <> '[]'",
            postgresql_using="gin",
            postgresql_ops={"tags": "jsonb_path_ops"},
        ),
        NEVER_AGAIN,
    )

    id: int = primary_key()
    title: str = Field(sa_type=Text)
    description: str | None = Field(default=None, sa_type=Text)
    status: TaskStatus = Field(
        default=TaskStatus.TODO,
        sa_type=choice(TaskStatus, "status"),
        sa_column_kwargs={"server_default": TaskStatus.TODO},
    )
    priority: TaskPriority = Field(
        default=TaskPriority.NORMAL,
        sa_type=choice(TaskPriority, "priority"),
        sa_column_kwargs={"server_default": TaskPriority.NORMAL},
    )
    tags: list[str] = Field(
        default_factory=_no_tags,
        sa_type=FixedTexts,
        nullable=False,
        sa_column_kwargs={"server_default": text("'[]'")},
    )
    project_id: int = reference("project.id", nullable=False)
    assignee_id: int | None = reference("worker.id", on_delete="SET NULL")
    created_by_id: int | None = reference("worker.id", on_delete="SET NULL")
    parent_task_id: int | None = Field(default=None, sa_type=BigId)
    due_at: datetime | None = moment()
    version: int = version()
    created_at: datetime = created_at()
    updated_at: datetime = updated_at()
    deleted_at: datetime | None = moment()

    project: "Project" = related(back_populates="tasks")
    assignee: Optional["Worker"] = related(
        back_populates="assigned_tasks", foreign_keys="Task.assignee_id"
    )
    created_by: Optional["Worker"] = related(foreign_keys="Task.created_by_id")
    parent: Optional["Task"] = related(
        back_populates="subtasks", primaryjoin="foreign(Task.parent_task_id) == remote(Task.id)"
    )
    subtasks: list["Task"] = related(
        back_populates="parent",
        primaryjoin="Task.id == foreign(remote(Task.parent_task_id))",
        order_by="Task.id",
        passive_deletes="all",
    )
