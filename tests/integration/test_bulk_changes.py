"""The task manager's functions for many jobs leave what their functions for one leave."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from db import projects, tasks, workers
from db.inputs import NewProject, NewTask, NewWorker, TaskChanges
from db.models import Task, TaskPriority, TaskStatus
from jobs.kinds import AssignTask, ChangeTaskStatus, UpdateTask
from ledgerq.database.engine import Database, Sessions
from ledgerq.database.transaction import transaction
from ledgerq.execution.outcome import Buried, Completed
from ledgerq.execution.process import process
from ledgerq.execution.retry import Policy
from ledgerq.store.tables import AuditLog, DeadLetter, ProcessedJob
from ledgerq.wire.payload import Payload
from tests.support import ORIGIN, delivery, rows
from worker.app import app

REGISTRY, POLICY = app.registry(), Policy(timeout=5)
LIVING, DELETED, MISSING = (1, 2, 3), 4, 99
NOW = datetime(2026, 3, 4, tzinfo=UTC)
OF_THE_RUN = {
    "created_at",
    "updated_at",
    "at",
    "processed_at",
    "buried_at",
    "traceback",
    "attempts",
}
EMPTY = """
    TRUNCATE project, worker, task, ledgerq.processed_job, ledgerq.dead_letter RESTART IDENTITY
"""

TASK_IDS = st.sampled_from((*LIVING, *LIVING, DELETED, MISSING))
WORKER_IDS = st.sampled_from((None, 1, 2, MISSING))
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "title": st.sampled_from("abc"),
        "description": st.none() | st.sampled_from("de"),
        "priority": st.sampled_from(TaskPriority),
        "tags": st.lists(st.sampled_from("xy"), unique=True),
        "assignee_id": WORKER_IDS,
        "parent_task_id": st.none() | st.none() | st.none() | TASK_IDS,
        "due_at": st.none() | st.just(NOW),
    },
)
MOVES = st.builds(ChangeTaskStatus, task_id=TASK_IDS, status=st.sampled_from(TaskStatus))
ASSIGNMENTS = st.builds(AssignTask, task_id=TASK_IDS, assignee_id=WORKER_IDS)
UPDATES = st.builds(
    UpdateTask,
    task_id=TASK_IDS,
    changes=CHANGES,
    expected_version=st.none() | st.integers(1, 4),
)
KINDS: tuple[st.SearchStrategy[Payload[Any]], ...] = (MOVES, ASSIGNMENTS, UPDATES)
BATCHES = st.one_of([st.lists(kind, min_size=2, max_size=9) for kind in KINDS])
# the second job would hide from the database what the first one refers to
OVERWRITTEN = [AssignTask(task_id=3, assignee_id=each) for each in (MISSING, None)]


async def furnish(sessions: Sessions) -> None:
    """Three tasks, a deleted one, two workers."""
    async with transaction(sessions) as session:
        project = await projects.create(session, ORIGIN, NewProject(name="p"))
        for name in ("Ada", "Bob"):
            await workers.create(session, ORIGIN, NewWorker(name=name))
        for _ in (*LIVING, DELETED):
            await tasks.create(session, ORIGIN, NewTask(title="a", project_id=project.id))
        await tasks.delete(session, ORIGIN, DELETED, now=NOW)


async def left(sessions: Sessions, after_entry: int) -> list[Any]:
    """All that the jobs left, without what differs from run to run; entries after one of this id."""
    keys: dict[Any, str] = {
        Task: "id",
        AuditLog: "id",
        ProcessedJob: "job_id",
        DeadLetter: "job_id",
    }
    found = list[Any]()
    for table, key in keys.items():
        held: list[Any] = sorted(await rows(sessions, table), key=lambda row: getattr(row, key))
        held = [row for row in held if not isinstance(row, AuditLog) or row.id > after_entry]
        # a job that is rolled back takes ids along
        omitted = OF_THE_RUN | ({"id"} if table in {AuditLog, DeadLetter} else set())
        found.append([row.model_dump(exclude=omitted) for row in held])
    return found


async def run(sessions: Sessions, payloads: Sequence[Payload[Any]], *, together: bool) -> list[Any]:
    """What the jobs answer, each processed alone or all at once."""
    arrived = [delivery(payload, f"job-{n}") for n, payload in enumerate(payloads)]
    batches = [arrived] if together else [[each] for each in arrived]
    outcomes = [o for each in batches for o in await process(each, REGISTRY, sessions, POLICY)]
    return [o.result if isinstance(o, Completed) else type(o) for o in outcomes]


@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@example(payloads=OVERWRITTEN)
@given(payloads=BATCHES)
async def test_many_changes_together_leave_what_each_alone_leaves(
    database: Database, payloads: Sequence[Payload[Any]]
) -> None:
    """Rows, entries in their order, receipts, letters and answers; with duplicates, illegal moves and missing rows."""
    seen = []
    for together in (False, True):
        async with database.engine.connect() as connection:
            raw: Any = (await connection.get_raw_connection()).driver_connection
            await raw.execute(EMPTY)
        entries = max((entry.id for entry in await rows(database.sessions, AuditLog)), default=0)
        await furnish(database.sessions)
        answers = await run(database.sessions, payloads, together=together)
        seen.append((answers, *await left(database.sessions, entries)))
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    "payloads",
    [
        [ChangeTaskStatus(task_id=n, status=TaskStatus.IN_PROGRESS) for n in LIVING]
        + [ChangeTaskStatus(task_id=n, status=TaskStatus.TODO) for n in LIVING],
        [AssignTask(task_id=n, assignee_id=w) for w in (1, 2) for n in LIVING],
        [UpdateTask(task_id=n, changes=TaskChanges(tags=[t])) for t in "xy" for n in LIVING],
    ],
    ids=lambda payloads: payloads[0].kind,
)
async def test_two_changes_of_each_task_are_two_updates(
    any_database: Database, payloads: Sequence[Payload[Any]]
) -> None:
    """The version counts both, both have entries; one statement locks all tasks, one for each turn changes them, one audits."""
    sessions, sent = any_database.sessions, list[str]()
    await furnish(sessions)
    event.listen(
        any_database.engine.sync_engine,
        "before_cursor_execute",
        lambda *given: sent.append(given[2]),
    )
    assert await run(sessions, payloads, together=True) == [*LIVING, *LIVING]
    ours = (("SELECT", "FROM task"), ("UPDATE task", ""), ("INSERT", "audit_log"))
    assert [sum(s.startswith(verb) and of in s for s in sent) for verb, of in ours] == [1, 2, 1]
    changed = [task for task in await rows(sessions, Task) if task.id in LIVING]
    assert {task.version for task in changed} == {3}
    entries = [entry for entry in await rows(sessions, AuditLog) if entry.job_id]
    assert [entry.entity_id for entry in entries] == [*"123", *"123"]
    assert [entry.after for entry in entries[:3]] == [entry.before for entry in entries[3:]]


async def test_a_bad_change_takes_no_neighbour_along(any_sessions: Sessions) -> None:
    """Of a batch of moves, the illegal one and those of no living task are buried."""
    await furnish(any_sessions)
    moves = [
        (1, "in_progress"),
        (2, "done"),
        (3, "blocked"),
        (DELETED, "blocked"),
        (MISSING, "todo"),
    ]
    payloads = [ChangeTaskStatus(task_id=n, status=TaskStatus(to)) for n, to in moves]
    assert await run(any_sessions, payloads, together=True) == [1, Buried, 3, Buried, Buried]
    letters = {letter.job_id: letter.error for letter in await rows(any_sessions, DeadLetter)}
    assert list(letters) == ["job-1", "job-3", "job-4"]
    assert "may not move from todo to done" in letters["job-1"]
    assert f"there is no task {DELETED}" in letters["job-3"]


async def test_a_broken_reference_names_its_field(any_sessions: Sessions) -> None:
    """In a batch too, on either database."""
    await furnish(any_sessions)
    payloads = [AssignTask(task_id=n, assignee_id=w) for n, w in ((1, 1), (2, MISSING))]
    assert await run(any_sessions, payloads, together=True) == [1, Buried]
    [letter] = await rows(any_sessions, DeadLetter)
    assert letter.problems
    assert letter.problems[0]["field"] == "assignee_id"
