"""Every function that writes leaves its audit entry, in the same transaction. A new one must appear here."""

import ast
import inspect
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from db import projects, task_bulk, tasks, workers, writes
from db.inputs import NewProject, NewTask, NewWorker, ProjectChanges, TaskChanges, WorkerChanges
from db.models import Project, Task, TaskStatus
from ledgerq.database.engine import Sessions
from ledgerq.database.transaction import transaction
from ledgerq.store import outbox
from ledgerq.store.audit import Change, Origin
from ledgerq.store.tables import AuditLog
from tests.support import count, new_project, new_task, rows

ORIGIN = Origin("walker", "job-walk", "walk", 1, "trace")
LATER = datetime(2030, 1, 1, tzinfo=UTC)
MODULES = (projects, workers, tasks, task_bulk)

Call = Callable[[AsyncSession, Task], Awaitable[Any]]


async def worker_of(session: AsyncSession) -> int:
    return (await workers.create(session, Origin("setup"), NewWorker(name="x"))).id


async def deleted(session: AsyncSession, task: Task) -> int:
    await tasks.delete(session, Origin("setup"), task.id, now=datetime(2020, 1, 1, tzinfo=UTC))
    return task.id


async def empty_project(session: AsyncSession) -> int:
    return (await projects.create(session, Origin("setup"), NewProject(name="empty"))).id


async def _update_worker(s: AsyncSession, t: Task) -> None:
    await workers.update(s, ORIGIN, await worker_of(s), WorkerChanges(name="y"))


async def _delete_worker(s: AsyncSession, t: Task) -> None:
    await workers.delete(s, ORIGIN, await worker_of(s))


async def _delete_project(s: AsyncSession, t: Task) -> None:
    await projects.delete(s, ORIGIN, await empty_project(s))


async def _restore(s: AsyncSession, t: Task) -> None:
    await tasks.restore(s, ORIGIN, await deleted(s, t))


async def _purge(s: AsyncSession, t: Task) -> None:
    await deleted(s, t)
    await tasks.purge(s, ORIGIN, deleted_before=LATER, limit=10)


WRITES: dict[str, Call] = {
    "projects.create": lambda s, t: projects.create(s, ORIGIN, NewProject(name="x")),
    "projects.update": lambda s, t: projects.update(
        s, ORIGIN, t.project_id, ProjectChanges(name="x")
    ),
    "projects.upsert_many": lambda s, t: projects.upsert_many(
        s, ORIGIN, [NewProject(name="x", key="X")]
    ),
    "projects.delete": _delete_project,
    "workers.create": lambda s, t: workers.create(s, ORIGIN, NewWorker(name="x")),
    "workers.update": _update_worker,
    "workers.delete": _delete_worker,
    "tasks.create": lambda s, t: tasks.create(
        s, ORIGIN, NewTask(title="x", project_id=t.project_id)
    ),
    "tasks.update": lambda s, t: tasks.update(s, ORIGIN, t.id, TaskChanges(title="x")),
    "tasks.change_status": lambda s, t: tasks.change_status(
        s, ORIGIN, t.id, TaskStatus.IN_PROGRESS
    ),
    "tasks.delete": lambda s, t: tasks.delete(s, ORIGIN, t.id, now=LATER),
    "tasks.restore": _restore,
    "tasks.purge": _purge,
    "task_bulk.create_many": lambda s, t: task_bulk.create_many(
        s, ORIGIN, [NewTask(title="x", project_id=t.project_id)]
    ),
    "task_bulk.update_many": lambda s, t: task_bulk.update_many(
        s, ORIGIN, [t.id], TaskChanges(title="x")
    ),
}


def writing_functions(module: ModuleType) -> set[str]:
    name = module.__name__.rpartition(".")[2]
    return {
        f"{name}.{function}"
        for function, found in inspect.getmembers(module, inspect.iscoroutinefunction)
        if "origin" in inspect.signature(found).parameters
        and found.__module__ == module.__name__
        and not function.startswith("_")
    }


def test_the_list_is_complete() -> None:
    """Every public function that takes an Origin is walked below."""
    assert set().union(*map(writing_functions, MODULES)) == WRITES.keys()


@pytest.mark.parametrize("name", WRITES)
async def test_a_write_leaves_its_entry(any_sessions: Sessions, name: str) -> None:
    """With actor, job, kind, attempt and trace."""
    task = await new_task(any_sessions)
    async with transaction(any_sessions) as session:
        await WRITES[name](session, await session.get_one(Task, task.id))
    left = [entry for entry in await rows(any_sessions, AuditLog) if entry.actor == "walker"]
    assert left, "no entry"
    for entry in left:
        assert (entry.job_id, entry.kind, entry.attempt, entry.trace_id) == (
            "job-walk",
            "walk",
            1,
            "trace",
        )
        assert entry.before != entry.after


@pytest.mark.parametrize("name", WRITES)
async def test_a_write_and_its_entry_go_together(
    any_sessions: Sessions, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the entry can't be written, nothing is."""
    task = await new_task(any_sessions)
    before = (await rows(any_sessions, Task), await rows(any_sessions, Project))

    async def refuse(session: AsyncSession, changes: Iterable[tuple[Origin, Change]]) -> None:
        if any(origin.actor == "walker" for origin, _ in changes):
            raise ZeroDivisionError

    for module in ("ledgerq.store.audit", "ledgerq.audit"):
        monkeypatch.setattr(f"{module}.record_many", refuse)
    with pytest.raises(ZeroDivisionError):
        async with transaction(any_sessions) as session:
            await WRITES[name](session, await session.get_one(Task, task.id))
    assert (await rows(any_sessions, Task), await rows(any_sessions, Project)) == before


def test_nothing_else_in_the_layer_writes() -> None:
    """A function that adds, changes or deletes rows takes an Origin, or is known not to need one."""
    own_bookkeeping = {
        "inbox.py", "outbox.py", "unique_keys.py", "dead_letters.py", "audit.py", "writes.py", "steps.py", "step_records.py",
    }  # fmt: skip
    writing = {"add", "add_all", "delete", "merge", "insert", "update_rows", "delete_rows"}
    folders = [Path(inspect.getfile(module)).parent for module in (writes, outbox)]
    for path in (each for folder in folders for each in folder.glob("*.py")):
        if path.name in own_bookkeeping:
            continue
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.AsyncFunctionDef):
                continue
            called = {
                node.func.attr
                if isinstance(node.func, ast.Attribute)
                else getattr(node.func, "id", "")
                for node in ast.walk(function)
                if isinstance(node, ast.Call)
            }
            private = function.name.startswith("_")
            takes_origin = any(a.arg == "origin" for a in function.args.args)
            assert private or takes_origin or not called & writing, f"{path.name}:{function.name}"


async def test_an_entry_without_its_write_is_impossible_too(any_sessions: Sessions) -> None:
    """Rolled back together: neither the row nor the entry is left."""
    with pytest.raises(ZeroDivisionError):
        async with transaction(any_sessions) as session:
            await projects.create(session, ORIGIN, NewProject(name="x"))
            raise ZeroDivisionError
    assert await count(any_sessions, AuditLog) == 0
    assert await count(any_sessions, Project) == 0
    assert await new_project(any_sessions)
