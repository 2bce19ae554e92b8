"""Strict models of the input of writes, separate from the tables. Jobs and services share them."""

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    StringConstraints,
)

from db.models import TaskPriority, TaskStatus, WorkerType
from ledgerq.bounds import MAX_ID, in_range

MAX_TAGS = 50


def _storable(text: str) -> str:
    """Refuse NUL and lone surrogates, which PostgreSQL can't store."""
    if "\x00" in text:
        raise ValueError("must not contain NUL characters")
    try:
        text.encode()  # at the speed of C: texts are long
    except UnicodeEncodeError:
        raise ValueError("must not contain lone surrogates") from None
    return text


def _no_number(value: object) -> object:
    if isinstance(value, int | float):
        raise ValueError("must be a date and time with its zone, as text")  # noqa: TRY004 - Pydantic's way
    return value


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


def _no_duplicates(tags: list[str]) -> list[str]:
    if len(set(tags)) < len(tags):
        raise ValueError("must not name a tag twice")
    return tags


Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200),
    AfterValidator(_not_blank),
    AfterValidator(_storable),
]
Title = Annotated[
    str,
    StringConstraints(min_length=1, max_length=500),
    AfterValidator(_not_blank),
    AfterValidator(_storable),
]
Key = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_-]{0,19}$")]
Prose = Annotated[str, StringConstraints(max_length=20_000), AfterValidator(_storable)]
Tag = Annotated[str, StringConstraints(min_length=1, max_length=50), AfterValidator(_storable)]
Tags = Annotated[list[Tag], Field(max_length=MAX_TAGS), AfterValidator(_no_duplicates)]
Needle = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_storable)]
# Not strict, so that text is accepted after a web framework has parsed the JSON; numbers are refused.
Moment = Annotated[
    AwareDatetime, Field(strict=False), BeforeValidator(_no_number), AfterValidator(in_range)
]
Status = Annotated[TaskStatus, Field(strict=False)]
Priority = Annotated[TaskPriority, Field(strict=False)]
Type = Annotated[WorkerType, Field(strict=False)]
Id = Annotated[PositiveInt, Field(le=MAX_ID)]


# the default is never read, since only fields that were set are changed; an explicit null is refused
UNCHANGED: Any = Field(default=None)


class Input(BaseModel):
    """Base of strict inputs: a number is not taken as text, unknown fields are errors, no error shows a value."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


class NewProject(Input):
    """A project to create. `key` is a short name that no other project has."""

    name: Name
    key: Key | None = None
    description: Prose | None = None


class ProjectChanges(Input):
    """Changes of a project. Only the fields that are set are changed."""

    name: Name = UNCHANGED
    key: Key | None = None
    description: Prose | None = None


class NewWorker(Input):
    """A person or agent to whom tasks can be assigned."""

    name: Name
    type: Type = WorkerType.PERSON


class WorkerChanges(Input):
    """Changes of a worker. Only the fields that are set are changed."""

    name: Name = UNCHANGED
    type: Type = UNCHANGED


class NewTask(Input):
    """A task to create; a subtask if `parent_task_id` is given."""

    title: Title
    project_id: Id
    description: Prose | None = None
    status: Status = TaskStatus.TODO
    priority: Priority = TaskPriority.NORMAL
    tags: Tags = Field(default_factory=list)
    assignee_id: Id | None = None
    created_by_id: Id | None = None
    parent_task_id: Id | None = None
    due_at: Moment | None = None


class TaskChanges(Input):
    """Changes of a task. Only the fields that are set are changed.

    `tasks.change_status` changes the status; a task's project never changes.
    """

    title: Title = UNCHANGED
    description: Prose | None = None
    priority: Priority = UNCHANGED
    tags: Tags = UNCHANGED
    assignee_id: Id | None = None
    parent_task_id: Id | None = None
    due_at: Moment | None = None
