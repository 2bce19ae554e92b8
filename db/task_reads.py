"""Reads of tasks, with few statements each: one task with its relations, a whole tree, a page of a list.

Reads leave out deleted tasks unless they ask for them.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

from pydantic import Field
from pydantic_core import from_json, to_json
from sqlalchemy import (
    ColumnElement,
    Select,
    case,
    func,
    literal_column,
    select,
    tuple_,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload, selectinload
from sqlalchemy.orm.attributes import set_committed_value
from sqlmodel import col

from db.errors import NotFound
from db.inputs import Id, Input, Moment, Needle, Tag
from db.models import Task, TaskPriority, TaskStatus
from db.models.soft_delete import INCLUDE_DELETED
from ledgerq.bounds import MAX_ID, in_range, is_id, require_limit
from ledgerq.errors import Refused

T = TypeVar("T")


class TaskOrder(StrEnum):
    """How a list is sorted. `due` leaves out tasks without a due date."""

    NEWEST = "newest"
    OLDEST = "oldest"
    DUE = "due"
    PRIORITY = "priority"


class TaskFilter(Input):
    """Selects tasks. A field that is None matches every task. `text` is searched in title and description."""

    project_id: Id | None = None
    status: TaskStatus | None = None
    priority: TaskPriority | None = None
    assignee_id: Id | None = None
    parent_task_id: Id | None = None
    tags: list[Tag] = Field(default_factory=list, max_length=20)
    text: Needle | None = None
    due_before: Moment | None = None
    include_deleted: bool = False


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a list. `next` is the cursor of the next page, None on the last. `total` is None if not asked for."""

    items: Sequence[T]
    next: str | None
    total: int | None


async def get(session: AsyncSession, task_id: int, *, include_deleted: bool = False) -> Task:
    """A task with project, assignee, creator and direct subtasks: two statements.

    Raises:
        NotFound: there is no such task, or it is deleted and `include_deleted` is False.
    """
    found = await session.scalars(
        select(Task)
        .where(col(Task.id) == (task_id if is_id(task_id) else 0))
        .options(*_SINGLE_REFERENCES, selectinload(Task.subtasks)),  # type: ignore[arg-type]
        execution_options={INCLUDE_DELETED: include_deleted, "populate_existing": True},
    )
    task = found.one_or_none()
    if task is None:
        raise NotFound("task", task_id)
    return task


async def tree(session: AsyncSession, task_id: int) -> Task:
    """A task with its subtasks at any depth, loaded by one statement.

    Raises:
        NotFound: there is no such task, or it is deleted.
    """
    if not is_id(task_id):
        raise NotFound("task", task_id)
    ids = select(col(Task.id)).where(col(Task.id) == task_id).cte("tree", recursive=True)
    ids = ids.union(select(col(Task.id)).join(ids, col(Task.parent_task_id) == ids.c.id))
    rows = select(Task).join(ids, col(Task.id) == ids.c.id).order_by(col(Task.id))
    found = {task.id: task for task in await session.scalars(rows)}
    if task_id not in found:
        raise NotFound("task", task_id)
    children: dict[int | None, list[Task]] = {}
    for task in found.values():
        children.setdefault(task.parent_task_id, []).append(task)
    for task in found.values():
        set_committed_value(task, "subtasks", children.get(task.id, []))
    return found[task_id]


async def page(
    session: AsyncSession,
    which: TaskFilter | None = None,
    *,
    order: TaskOrder | str = TaskOrder.NEWEST,
    limit: int = 50,
    after: str | None = None,
    offset: int = 0,
    with_total: bool = False,
) -> Page[Task]:
    """One page, each task with project, assignee and creator: one statement, two with the total.

    `after` is the cursor of the page before; it stays correct while rows are added. `offset` skips rows from the start;
    if rows are added meanwhile, pages overlap.

    Raises:
        Refused: the cursor is not one of this list, there is no such order, or limit or offset is
            out of range.
    """
    order = _known(order)
    require_limit(limit)
    if type(offset) is not int or not 0 <= offset <= MAX_ID:
        raise Refused("offset", f"must be 0 to {MAX_ID}")
    which = which or TaskFilter()
    options = {INCLUDE_DELETED: which.include_deleted}
    filtered = _filtered(session, which, order)
    following = filtered.options(*_SINGLE_REFERENCES).order_by(*_sorting(order)).offset(offset)
    if after is not None:
        following = following.where(_beyond(order, after))
    rows = await session.scalars(following.limit(limit + 1), execution_options=options)
    items = rows.all()
    total = None
    if with_total:
        counted = select(func.count()).select_from(filtered.subquery())
        total = await session.scalar(counted, execution_options=options)
    more = _cursor(order, items[limit - 1]) if len(items) > limit else None
    return Page(items[:limit], more, total)


_SINGLE_REFERENCES = (
    joinedload(Task.project),  # type: ignore[arg-type]
    joinedload(Task.assignee),  # type: ignore[arg-type]
    joinedload(Task.created_by),  # type: ignore[arg-type]
)
_URGENCY = case(
    {priority: -rank for rank, priority in enumerate(TaskPriority)}, value=col(Task.priority)
)


def _known(order: TaskOrder | str) -> TaskOrder:
    try:
        return TaskOrder(order)
    except ValueError:
        raise Refused("order", f"must be one of {', '.join(TaskOrder)}") from None


def _filtered(session: AsyncSession, which: TaskFilter, order: TaskOrder) -> Select[Any]:
    tasks = select(Task)
    for field in ("project_id", "status", "priority", "assignee_id", "parent_task_id"):
        if (value := getattr(which, field)) is not None:
            tasks = tasks.where(getattr(Task, field) == value)
    if which.tags:
        tasks = tasks.where(_has_tags(session, which.tags))
    if which.text is not None:
        in_title = col(Task.title).icontains(which.text, autoescape=True)
        tasks = tasks.where(in_title | col(Task.description).icontains(which.text, autoescape=True))
    if which.due_before is not None:
        tasks = tasks.where(col(Task.due_at) < which.due_before)
    if order is TaskOrder.DUE:
        tasks = tasks.where(col(Task.due_at).is_not(None))
    return tasks


def _has_tags(session: AsyncSession, tags: Sequence[str]) -> ColumnElement[bool]:
    """True for tasks with all of the tags: `tags @> …`, by the GIN index; SQLite reads each task's list.

    The index has no empty lists, so the statement must say that it wants none.
    """
    if session.get_bind().dialect.name != "sqlite":
        some = col(Task.tags) != literal_column("'[]'")
        return some & type_coerce(col(Task.tags), JSONB).contains(list(tags))
    inside = func.json_each(col(Task.tags)).table_valued("value")
    matching = select(func.count(inside.c.value.distinct())).where(inside.c.value.in_(tags))
    return matching.scalar_subquery() == len(set(tags))


def _columns(order: TaskOrder) -> list[ColumnElement[Any]]:
    """The columns by which a list is sorted. The id is the last, so that no two rows are equal."""
    leading: dict[TaskOrder, list[ColumnElement[Any]]] = {
        TaskOrder.DUE: [col(Task.due_at)],  # type: ignore[list-item]
        TaskOrder.PRIORITY: [_URGENCY],
    }
    return [*leading.get(order, []), col(Task.id)]  # type: ignore[list-item]


def _sorting(order: TaskOrder) -> list[ColumnElement[Any]]:
    columns = _columns(order)
    return [column.desc() for column in columns] if order is TaskOrder.NEWEST else columns


def _beyond(order: TaskOrder, cursor: str) -> ColumnElement[bool]:
    columns, values = tuple_(*_columns(order)), tuple_(*_read_cursor(order, cursor))
    return columns < values if order is TaskOrder.NEWEST else columns > values


def _cursor(order: TaskOrder, last: Task) -> str:
    leading: dict[TaskOrder, list[Any]] = {
        TaskOrder.DUE: [last.due_at],
        TaskOrder.PRIORITY: [-list(TaskPriority).index(last.priority)],
    }
    content = to_json([order, *leading.get(order, []), last.id])
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _read_cursor(order: TaskOrder, cursor: str) -> list[Any]:
    refused = Refused("after", f"is not a cursor of a list sorted by {order}")
    try:
        name, *values = from_json(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if order is TaskOrder.DUE:
            values[0] = in_range(datetime.fromisoformat(values[0]))
    except (ValueError, TypeError, IndexError):  # binascii.Error is a ValueError
        raise refused from None
    if name != order or len(values) != len(_columns(order)) or not _in_bounds(order, values):
        raise refused
    return list(values)


def _in_bounds(order: TaskOrder, values: Sequence[Any]) -> bool:
    """False if a cursor holds a value that no real cursor has: a client may have made it up."""
    if order is TaskOrder.PRIORITY and values[0] not in range(-len(TaskPriority) + 1, 1):
        return False
    return type(values[-1]) is int and 0 <= values[-1] <= MAX_ID
