"""No argument of the database layer reaches a driver that can't take it: ids, cursors, limits, lists, texts, times."""

import inspect
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from db import lookups, projects, task_bulk, task_reads, tasks, workers
from db.inputs import NewProject, NewTask, NewWorker, ProjectChanges, TaskChanges, WorkerChanges
from db.models import Project, TaskStatus
from db.task_reads import TaskFilter
from ledgerq.database.engine import Sessions
from ledgerq.database.transaction import transaction
from ledgerq.errors import NotStaged, Refused
from ledgerq.store import audit, dead_letters, inbox, outbox, unique_keys
from ledgerq.store.audit import Change, Origin
from ledgerq.store.dead_letters import DeadLetterFilter
from ledgerq.store.tables import Action, AuditLog
from tests.support import count

MODULES = (
    audit,
    dead_letters,
    inbox,
    lookups,
    outbox,
    projects,
    task_bulk,
    task_reads,
    tasks,
    unique_keys,
    workers,
)
FLOW = {  # called by the flow alone, with values that the door has checked: see ledgerq.wire.request, ledgerq.wire.envelope
    "audit.record",  # its entries have a test of their own
    "audit.record_many",
    "audit.write_entries",
    "dead_letters.bury",
    "inbox.keep_result",
    "inbox.keep_results",
    "inbox.get_receipt",
    "inbox.insert_receipt",
    "inbox.insert_receipts",
    "outbox.add",
    "outbox.listen",
    "outbox.remove_last",
    "unique_keys.take",
}
NOW = datetime(2026, 1, 1, tzinfo=UTC)
IDS = (2**63, -(2**63) - 1, 10**30, 0, -1, True)
CURSORS = (2**63, -(2**63) - 1, 10**30, -1)
TEXTS = ("\x00", "a\x00b", "\ud800", "x" * 1_000_000, "")
TIMES = (
    datetime(2026, 1, 1),  # noqa: DTZ001 - the case
    datetime.max.replace(tzinfo=timezone(-timedelta(hours=14))),
    datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
)
MANY = [f"job-{n}" for n in range(40_000)]
ODD: dict[str, tuple[Any, ...]] = {
    "task_id": IDS,
    "project_id": IDS,
    "worker_id": IDS,
    "entity_id": (*IDS, *TEXTS),
    "expected_version": IDS,
    "after_id": CURSORS,
    "before_id": CURSORS,
    "limit": (0, -1, 2**63, 10**30, True),
    "offset": CURSORS,
    "task_ids": ([2**63], [-(2**63) - 1], [10**30, 1], [0], [True], [], list(range(1, 10_001))),
    "job_ids": (["\x00"], ["\ud800", "a"], ["x" * 1_000_000], [""], [], MANY),
    "rows": ({"\x00": 1}, {"\ud800": 2**63}, {"x" * 1_000_000: -1}, {}, dict.fromkeys(MANY, 1)),
    "job_id": TEXTS,
    "entity_type": TEXTS,
    "entity": TEXTS,
    "after": TEXTS,
    "now": TIMES,
    "deleted_before": TIMES,
    "ended_before": TIMES,
    "wanted": ({2**63: 1}, {True: 1}, {0: 1}, {-1: 1}, {1: 2**63}, dict.fromkeys(range(40_000), 1)),
    "which": (
        DeadLetterFilter(kind="\x00"),
        DeadLetterFilter(fingerprint="\ud800"),
        DeadLetterFilter(reason="x" * 1_000_000),
    ),
}
USUAL: dict[str, Any] = {
    "origin": Origin(actor="tester"),
    "task_id": 1,
    "project_id": 1,
    "worker_id": 1,
    "entity_id": 1,
    "rows": {"a": 1},
    "table": Project,
    "after_id": 0,
    "limit": 10,
    "task_ids": [1],
    "job_ids": ["a"],
    "job_id": "a",
    "entity_type": "task",
    "entity": "task",
    "now": NOW,
    "deleted_before": NOW,
    "ended_before": NOW,
    "status": TaskStatus.DONE,
    "wanted": {},
}
HARMLESS = {
    "session",
    "origin",
    "include_deleted",
    "with_total",
    "brief",
    "order",
    "new",
    "news",
    "moves",
    "updates",
}
HARMLESS |= {"changes", "status", "table", "kinds"}  # inputs check themselves


def functions(module: ModuleType) -> list[Callable[..., Any]]:
    """Its public functions that are awaited."""
    short = module.__name__.rpartition(".")[2]
    return [
        function
        for name, function in vars(module).items()
        if not name.startswith("_")
        and inspect.iscoroutinefunction(function)
        and function.__module__ == module.__name__
        and f"{short}.{name}" not in FLOW
    ]


def arguments(function: Callable[..., Any]) -> dict[str, Any]:
    """What it needs, all of it usual."""
    given = dict(USUAL)
    module = inspect.getmodule(function)
    assert isinstance(module, ModuleType)
    given["new"] = {projects: NewProject(name="x"), workers: NewWorker(name="x")}.get(
        module, NewTask(title="x", project_id=1)
    )
    given["changes"] = {projects: ProjectChanges(name="y"), workers: WorkerChanges(name="y")}.get(
        module, TaskChanges(title="y")
    )
    given |= {"news": [], "moves": [], "updates": []}
    needed = inspect.signature(function).parameters.values()
    return {p.name: given[p.name] for p in needed if p.default is p.empty and p.name != "session"}


@pytest.fixture
async def filled(any_sessions: Sessions) -> Sessions:
    """A row of each."""
    async with transaction(any_sessions) as session:
        origin = Origin(actor="tester")
        await projects.create(session, origin, NewProject(name="x"))
        await workers.create(session, origin, NewWorker(name="x"))
        await tasks.create(session, origin, NewTask(title="x", project_id=1))
    return any_sessions


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
async def test_an_argument_that_no_row_can_have_is_an_answer_or_refused(
    filled: Sessions, module: ModuleType
) -> None:
    """Not found, empty, or refused by its name; never a driver's error, never an OverflowError."""
    for function in functions(module):
        for name in inspect.signature(function).parameters:
            if name in HARMLESS or (function, name) == (task_reads.page, "which"):
                continue  # a TaskFilter checks itself
            for odd in ODD[name]:
                async with filled() as session:
                    await answers_or_refuses(session, function, {**arguments(function), name: odd})


async def answers_or_refuses(
    session: AsyncSession, function: Callable[..., Any], given: dict[str, Any]
) -> None:
    try:
        await function(session, **given)
    except (Refused, NotStaged):
        pass
    except Exception as error:
        shown = {name: repr(value)[:60] for name, value in given.items()}
        raise AssertionError(f"{function.__qualname__} with {shown}") from error


@pytest.mark.parametrize("text", ["\x00", "\ud800"])
def test_a_filter_checks_its_text(text: str) -> None:
    """Where the filter is made."""
    with pytest.raises(ValueError, match="text"):
        TaskFilter(text=text)


CHANGE = Change("task", 1, Action.UPDATE, {}, {})


LOST_AUTHORS: list[tuple[str, Any, Change]] = [
    *(
        ("actor", Origin(actor=actor), CHANGE)
        for actor in ("", "x" * 201, "a\x1bb", "\x00", "a\u202eb", "\ud800")
    ),
    ("job_id", Origin("t", job_id="x" * 201), CHANGE),
    ("job_id", Origin("t", job_id="\x00"), CHANGE),
    ("kind", Origin("t", kind="\ud800"), CHANGE),
    ("trace_id", Origin("t", trace_id="x" * 65), CHANGE),
    ("attempt", Origin("t", attempt=2**31), CHANGE),
    ("entity_type", Origin("t"), Change("\x00", 1, Action.UPDATE, {}, {})),
    ("entity_id", Origin("t"), Change("task", "", Action.UPDATE, {}, {})),
    ("action", Origin("t"), Change("task", 1, "", {}, {})),
    ("action", Origin("t"), Change("task", 1, "x" * 51, {}, {})),
    ("action", Origin("t"), Change("task", 1, "a\x1bb", {}, {})),
]


async def test_an_author_who_cannot_be_kept_is_refused_not_replaced(any_sessions: Sessions) -> None:
    """By its name; nothing is written under another one."""
    for field, origin, change in LOST_AUTHORS:
        with pytest.raises(Refused) as caught:
            async with transaction(any_sessions) as session:
                await audit.record_many(session, [(Origin("t"), CHANGE), (origin, change)])
        assert caught.value.field == field
    assert await count(any_sessions, AuditLog) == 0
