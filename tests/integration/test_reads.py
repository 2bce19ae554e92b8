"""Lists, pages, trees; and how many statements they take."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event

from db import task_bulk, task_reads, tasks, workers
from db.errors import NotFound
from db.inputs import NewTask, NewWorker
from db.models import Task, TaskPriority, TaskStatus
from db.task_reads import Page, TaskFilter, TaskOrder
from ledgerq.database.engine import Database, Sessions
from ledgerq.database.transaction import transaction
from ledgerq.errors import Refused
from tests.support import ORIGIN, new_project, new_task

HUGE = "WyJuZXdlc3QiLDk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OV0"  # ["newest", 10^29 - 1]
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """What is sent to the database inside the block."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(database.engine.sync_engine, "before_cursor_execute", note)


def selects(sent: Sequence[str]) -> int:
    return sum(statement.lstrip().startswith(("SELECT", "WITH")) for statement in sent)


async def make(sessions: Sessions, *news: NewTask) -> list[int]:
    async with transaction(sessions) as session:
        return await task_bulk.create_many(session, ORIGIN, news)


async def page(sessions: Sessions, which: TaskFilter | None = None, **options: Any) -> Page[Task]:
    async with sessions() as session:
        return await task_reads.page(session, which, **options)


def titles(found: Page[Task]) -> list[str]:
    return [task.title for task in found.items]


async def test_every_filter(any_sessions: Sessions) -> None:
    """Project, status, priority, assignee, parent, tags, text, due date; together they narrow down."""
    one, two = await new_project(any_sessions), await new_project(any_sessions, "two")
    async with transaction(any_sessions) as session:
        ada = (await workers.create(session, ORIGIN, NewWorker(name="Ada"))).id
    (parent,) = await make(any_sessions, NewTask(title="plain", project_id=one))
    await make(
        any_sessions,
        NewTask(title="done", project_id=one, status=TaskStatus.DONE),
        NewTask(title="urgent", project_id=one, priority=TaskPriority.URGENT),
        NewTask(title="ada's", project_id=one, assignee_id=ada),
        NewTask(title="child", project_id=one, parent_task_id=parent),
        NewTask(title="tagged", project_id=one, tags=["größe", "日本語", "x"]),
        NewTask(title="100% _sure_", project_id=one, description="look HERE"),
        NewTask(title="due", project_id=one, due_at=NOW),
        NewTask(title="elsewhere", project_id=two, tags=["x"]),
    )
    for which, expected in (
        (TaskFilter(project_id=two), ["elsewhere"]),
        (TaskFilter(status=TaskStatus.DONE), ["done"]),
        (TaskFilter(priority=TaskPriority.URGENT), ["urgent"]),
        (TaskFilter(assignee_id=ada), ["ada's"]),
        (TaskFilter(parent_task_id=parent), ["child"]),
        (TaskFilter(tags=["日本語", "größe"]), ["tagged"]),
        (TaskFilter(tags=["x"]), ["elsewhere", "tagged"]),
        (TaskFilter(tags=["x"], project_id=one), ["tagged"]),
        (TaskFilter(tags=["x", "y"]), []),
        (TaskFilter(text="0% _SURE"), ["100% _sure_"]),
        (TaskFilter(text="look here"), ["100% _sure_"]),
        (TaskFilter(text="%"), ["100% _sure_"]),
        (TaskFilter(due_before=NOW + timedelta(seconds=1)), ["due"]),
        (TaskFilter(due_before=NOW), []),
    ):
        found = await page(any_sessions, which, with_total=True)
        assert titles(found) == expected, which
        assert found.total == len(expected)


@pytest.mark.parametrize("order", list(TaskOrder))
async def test_keyset_pages_stay_correct_while_rows_are_added(
    any_sessions: Sessions, order: TaskOrder
) -> None:
    """Each task that was there at the start is seen exactly once, in order."""
    project_id = await new_project(any_sessions)

    def task(n: int) -> NewTask:
        return NewTask(
            title=f"{n:03}",
            project_id=project_id,
            priority=list(TaskPriority)[n % 4],
            due_at=NOW + timedelta(hours=n // 3) if n % 5 else None,
        )

    start = set(await make(any_sessions, *(task(n) for n in range(40))))
    everything = await page(any_sessions, order=order, limit=100)
    seen: list[int] = []
    cursor: str | None = None
    for n in range(100):
        found = await page(any_sessions, order=order, limit=7, after=cursor)
        seen += [each.id for each in found.items]
        await make(any_sessions, task(n))
        cursor = found.next
        if cursor is None:
            break
    assert [task_id for task_id in seen if task_id in start] == [t.id for t in everything.items]
    assert len(seen) == len(set(seen))


async def test_the_orders(any_sessions: Sessions) -> None:
    """Newest, oldest, by due date without those that have none, by urgency."""
    project_id = await new_project(any_sessions)
    await make(
        any_sessions,
        NewTask(title="a", project_id=project_id, priority=TaskPriority.LOW, due_at=NOW),
        NewTask(title="b", project_id=project_id, priority=TaskPriority.URGENT),
        NewTask(title="c", project_id=project_id, due_at=NOW - timedelta(days=1)),
    )
    found = {order: titles(await page(any_sessions, order=order)) for order in TaskOrder}
    by_name = {order: titles(await page(any_sessions, order=order.value)) for order in TaskOrder}
    assert found == by_name
    strange: list[Any] = ["NEWEST", "", None, 1, []]
    for unknown in strange:
        with pytest.raises(Refused, match="order: must be one of newest, oldest, due, priority"):
            await page(any_sessions, order=unknown)
    assert found == {
        TaskOrder.NEWEST: ["c", "b", "a"],
        TaskOrder.OLDEST: ["a", "b", "c"],
        TaskOrder.DUE: ["c", "a"],
        TaskOrder.PRIORITY: ["b", "c", "a"],
    }


async def test_offset_pages_and_the_total(any_sessions: Sessions) -> None:
    """For who must jump; the total only when asked for."""
    project_id = await new_project(any_sessions)
    await make(any_sessions, *(NewTask(title=str(n), project_id=project_id) for n in range(10)))
    found = await page(any_sessions, order=TaskOrder.OLDEST, limit=3, offset=6, with_total=True)
    assert (titles(found), found.total) == (["6", "7", "8"], 10)
    assert (await page(any_sessions, limit=3)).total is None
    assert (await page(any_sessions, limit=10)).next is None


@pytest.mark.parametrize(
    "cursor", ["", "x", "bnVsbA", "W10", "WyJuZXdlc3QiLCJhIl0", "WyJvbGRlc3QiLDFd", HUGE]
)
async def test_a_cursor_that_is_none_of_ours_is_refused(
    any_sessions: Sessions, cursor: str
) -> None:
    """A made-up one, or one of another list."""
    with pytest.raises(Refused, match="after: is not a cursor"):
        await page(any_sessions, after=cursor)


@pytest.mark.parametrize("limit", [0, -1, 501])
async def test_a_page_is_never_without_bounds(any_sessions: Sessions, limit: int) -> None:
    """Nobody loads the whole table by a typing error."""
    with pytest.raises(Refused, match="limit"):
        await page(any_sessions, limit=limit)


async def test_deleted_tasks_are_hidden_from_every_read_that_does_not_ask(
    any_sessions: Sessions,
) -> None:
    """Lists, totals, single reads, trees and relationships."""
    root = await new_task(any_sessions, title="root")
    fields = {"project_id": root.project_id, "parent_task_id": root.id}
    await new_task(any_sessions, title="living", **fields)
    gone = await new_task(any_sessions, title="gone", **fields)
    async with transaction(any_sessions) as session:
        await tasks.delete(session, ORIGIN, gone.id, now=NOW)
    found = await page(any_sessions, with_total=True)
    assert (titles(found), found.total) == (["living", "root"], 2)
    everything = await page(any_sessions, TaskFilter(include_deleted=True), with_total=True)
    assert everything.total == 3
    async with any_sessions() as session:
        assert await session.get(Task, gone.id) is None
        with pytest.raises(NotFound):
            await task_reads.get(session, gone.id)
        assert (await task_reads.get(session, gone.id, include_deleted=True)).id == gone.id
    async with any_sessions() as session:
        loaded = await task_reads.get(session, root.id)
        assert [task.title for task in loaded.subtasks] == ["living"]
    async with any_sessions() as session:
        tree = await task_reads.tree(session, root.id)
        assert [task.title for task in tree.subtasks] == ["living"]


@pytest.mark.parametrize("size", [1, 10, 1_000])
async def test_the_number_of_statements_does_not_grow(any_database: Database, size: int) -> None:
    """A page with relations, a task with subtasks, a tree: the same for 1, 10 and 1,000 tasks."""
    sessions = any_database.sessions
    root = await new_task(sessions)
    async with transaction(sessions) as session:
        ada = (await workers.create(session, ORIGIN, NewWorker(name="Ada"))).id
    parent = root.id
    for start in range(0, size, 100):
        some = range(start, min(size, start + 100))
        ids = await make(
            sessions,
            *(
                NewTask(
                    title=str(n), project_id=root.project_id, parent_task_id=parent, assignee_id=ada
                )
                for n in some
            ),
        )
        parent = ids[-1]
    async with sessions() as session:
        with statements(any_database) as sent:
            found = await task_reads.page(session, limit=min(size, 500), with_total=True)
            assert all(task.project.name for task in found.items)
            assert found.items[0].assignee
            assert selects(sent) == 2
    async with sessions() as session:
        with statements(any_database) as sent:
            assert len((await task_reads.get(session, root.id)).subtasks) == min(size, 100)
            assert selects(sent) == 2
    async with sessions() as session:
        with statements(any_database) as sent:
            assert _size(await task_reads.tree(session, root.id)) == size + 1
            assert selects(sent) == 1


def _size(task: Task) -> int:
    """Counted without recursion: a tree may be deeper than Python's stack."""
    seen, waiting = 0, [task]
    while waiting:
        seen += 1
        waiting += waiting.pop().subtasks
    return seen


async def test_what_a_read_gave_can_be_shown_after_the_session(any_sessions: Sessions) -> None:
    """No MissingGreenlet while a response is rendered."""
    made = await new_task(any_sessions)
    async with any_sessions() as session:
        task = await task_reads.get(session, made.id)
    assert task.project.name == "Launch"
    assert (task.assignee, task.created_by, task.subtasks) == (None, None, [])
    assert task.created_at.tzinfo is UTC
