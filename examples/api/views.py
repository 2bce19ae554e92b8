"""What the service takes and shows: its own contract, apart from the tables."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from db.inputs import Id, Moment, Needle, Tag
from db.models import TaskPriority, TaskStatus, WorkerType
from db.task_reads import TaskFilter, TaskOrder
from ledgerq.audit import Action
from ledgerq.bounds import MAX_ROWS


class View(BaseModel):
    """Read from a row by its attributes."""

    model_config = ConfigDict(from_attributes=True)


class ProjectView(View):
    id: int
    key: str | None
    name: str
    description: str | None
    version: int
    created_at: datetime


class WorkerView(View):
    id: int
    name: str
    type: WorkerType


class TaskView(View):
    """A task in a list."""

    id: int
    title: str
    description: str | None
    status: TaskStatus
    priority: TaskPriority
    tags: list[str]
    parent_task_id: int | None
    due_at: datetime | None
    version: int
    created_at: datetime
    updated_at: datetime
    project: ProjectView
    assignee: WorkerView | None
    created_by: WorkerView | None


class SubtaskView(View):
    id: int
    title: str
    status: TaskStatus


class SingleTaskView(TaskView):
    """A task by itself, with its subtasks."""

    subtasks: list[SubtaskView]


class PageView(BaseModel):
    items: list[TaskView]
    next: str | None
    total: int | None


class AuditView(View):
    id: int
    action: Action
    actor: str
    before: dict[str, Any]
    after: dict[str, Any]
    job_id: str | None
    kind: str | None
    attempt: int | None
    at: datetime


class JobView(BaseModel):
    """Where a job stands; `result` is what it answered, `error` why it failed."""

    job_id: str
    status: Literal["queued", "deferred", "in_progress", "done", "cancelled", "dead"]
    result: Any = None
    error: str | None = None
    problems: list[dict[str, str]] = Field(default_factory=list)


class TaskQuery(BaseModel):
    """Filters, order and page of `GET /tasks`."""

    model_config = ConfigDict(extra="forbid")

    project_id: Id | None = None
    status: TaskStatus | None = None
    priority: TaskPriority | None = None
    assignee_id: Id | None = None
    parent_task_id: Id | None = None
    tag: list[Tag] = Field(default_factory=list, max_length=20)
    text: Needle | None = None
    due_before: Moment | None = None
    include_deleted: bool = False
    order: TaskOrder = TaskOrder.NEWEST
    limit: int = Field(default=50, ge=1, le=MAX_ROWS)
    after: str | None = None
    with_total: bool = False

    def as_filter(self) -> TaskFilter:
        """The part that says which tasks."""
        page = {"order", "limit", "after", "with_total", "tag"}
        return TaskFilter(**self.model_dump(exclude=page), tags=self.tag)
