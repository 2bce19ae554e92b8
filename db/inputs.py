"""What may be written: strict input models, apart from the tables. Jobs and services share them."""

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
    """PostgreSQL stores neither NUL nor half a surrogate pair."""
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
# Not strict, so that JSON's text is taken where a web framework has parsed it before; a number is not.
Moment = Annotated[
    AwareDatetime, Field(strict=False), BeforeValidator(_no_number), AfterValidator(in_range)
]
Status = Annotated[TaskStatus, Field(strict=False)]
Priority = Annotated[TaskPriority, Field(strict=False)]
Type = Annotated[WorkerType, Field(strict=False)]
Id = Annotated[PositiveInt, Field(le=MAX_ID)]


UNCHANGED: Any = Field(
    default=None
)  # never read: only fields that were set count, and null is refused


class Input(BaseModel):
    """Strict: a number is not a string, an unknown field is an error, and no error repeats the value."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


class NewProject(Input):
    """A project to create. `key` is its natural key, a short name that no other project has."""

    name: Name
    key: Key | None = None
    description: Prose | None = None


class ProjectChanges(Input):
    """What to change of a project: the fields that were set, and no others."""

    name: Name = UNCHANGED
    key: Key | None = None
    description: Prose | None = None


class NewWorker(Input):
    """A person or agent to whom tasks can be assigned."""

    name: Name
    type: Type = WorkerType.PERSON


class WorkerChanges(Input):
    """What to change of a worker: the fields that were set, and no others."""

    name: Name = UNCHANGED
    type: Type = UNCHANGED


class NewTask(Input):
    """A task to create; with `parent_task_id` a subtask."""

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
    """What to change of a task: the fields that were set, and no others.

    The status moves by `tasks.change_status`; the project of a task never changes.
    """

    title: Title = UNCHANGED
    description: Prose | None = None
    priority: Priority = UNCHANGED
    tags: Tags = UNCHANGED
    assignee_id: Id | None = None
    parent_task_id: Id | None = None
    due_at: Moment | None = None
