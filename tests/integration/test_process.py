"""The flow of one delivery: what it leaves, however it ends."""

import asyncio

import pytest

from db import projects
from db.inputs import NewProject
from db.models import Project, Task
from jobs.kinds import (
    CreateProject,
    CreateTask,
)
from ledgerq.database.engine import Sessions
from ledgerq.errors import RetryLater
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.outcome import Buried, Completed, Duplicate, Outcome, Retry
from ledgerq.execution.registry import Registry
from ledgerq.execution.retry import Policy
from ledgerq.job import JobContext, Kind
from ledgerq.store.tables import AuditLog, DeadLetter, JobState
from ledgerq.wire.payload import Payload
from tests.support import (
    NeverReached,
    cancelled_at,
    count,
    delivery,
    done,
    effects,
    history,
    letter,
    new_project,
    process_one,
    rows,
)
from worker.app import app

POLICY = Policy(timeout=5, max_attempts=3)


async def run(sessions: Sessions, arrived: Delivery, registry: Registry | None = None) -> Outcome:
    return await process_one(arrived, registry or app.registry(), sessions, POLICY)


class Fail(Payload, kind="fail"):
    """A job that adds a project, flushes it, writes its audit entry, and then does as told."""

    how: str = "raise"


async def fail(context: JobContext, payload: Fail) -> None:
    await projects.create(context.session, context.origin, NewProject(name="half done"))
    match payload.how:
        case "raise":
            raise ZeroDivisionError
        case "retry":
            raise RetryLater(42)
        case "hang":
            await asyncio.Event().wait()
        case "exit":
            raise SystemExit(3)


FAILING = Registry([Kind(Fail, fail)])
HANGING = Registry([Kind(Fail, fail, timeout=0.3)])


async def nothing_is_left(sessions: Sessions) -> bool:
    tables = (Project, Task, AuditLog)
    return [await count(sessions, table) for table in tables] == [0, 0, 0] and not await done(
        sessions
    )


async def test_a_job_leaves_its_row_its_audit_entry_and_its_mark(any_sessions: Sessions) -> None:
    """The three commit together; the result is the new id."""
    project_id = await new_project(any_sessions)
    wanted = CreateTask(title="Write the report", project_id=project_id, tags=["日本語"])

    outcome = await run(any_sessions, delivery(wanted, "job-1", attempt=2))

    (task,) = await rows(any_sessions, Task)
    (entry,) = await history(any_sessions, "task", task.id)
    assert outcome == Completed(task.id)
    assert task.title == "Write the report"
    assert (entry.actor, entry.job_id, entry.kind, entry.attempt) == (
        "tester",
        "job-1",
        "create_task",
        2,
    )
    assert await effects(any_sessions, "job-1") == (1, 1, 1)


@pytest.mark.parametrize("how", ["raise", "retry", "hang"])
async def test_a_handler_that_fails_after_its_flush_leaves_nothing(
    any_sessions: Sessions, how: str
) -> None:
    """An error, a wish to come back and a timeout roll back row, audit entry and mark alike."""
    registry = HANGING if how == "hang" else FAILING
    outcome = await run(any_sessions, delivery(Fail(how=how)), registry)
    assert isinstance(outcome, Retry)
    assert await nothing_is_left(any_sessions)


async def test_even_an_exit_from_a_handler_leaves_nothing(any_sessions: Sessions) -> None:
    """What is no Exception does not end the worker either: it is a failed attempt."""
    outcome = await run(any_sessions, delivery(Fail(how="exit")), FAILING)
    assert isinstance(outcome, Retry)
    assert outcome.counts_as_attempt
    assert await nothing_is_left(any_sessions)


async def test_the_last_attempt_ends_among_the_dead_letters(any_sessions: Sessions) -> None:
    """With kind, payload, error and traceback; the effects are still rolled back."""
    outcome = await run(
        any_sessions, delivery(Fail(how="raise"), attempt=POLICY.max_attempts), FAILING
    )
    assert isinstance(outcome, Buried)
    buried = await letter(any_sessions, "job-1")
    assert (buried.kind, buried.payload, buried.raw) == ("fail", {"how": "raise"}, None)
    assert (buried.reason, buried.attempt) == ("failed", 3)
    assert "ZeroDivisionError" in buried.error
    assert "in fail" in (buried.traceback or "")
    assert await nothing_is_left(any_sessions)


async def test_a_second_delivery_does_nothing_and_answers_the_same(
    any_sessions: Sessions,
) -> None:
    """Delivered three times, done once."""
    arrived = delivery(CreateProject(name="Launch"))
    first = await run(any_sessions, arrived)
    assert isinstance(first, Completed)
    for _ in range(2):
        assert await run(any_sessions, arrived) == Duplicate(JobState.DONE, first.result)
    assert await count(any_sessions, Project) == 1


async def test_deliveries_at_the_same_time_are_done_once(any_sessions: Sessions) -> None:
    """Ten at once meet at the inbox: one is done, nine find it done."""
    arrived = delivery(CreateProject(name="Launch"))
    outcomes = await asyncio.gather(*(run(any_sessions, arrived) for _ in range(10)))
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Completed"] + 9 * [
        "Duplicate"
    ]
    assert len({each.result for each in outcomes if isinstance(each, Completed | Duplicate)}) == 1
    assert await count(any_sessions, Project) == 1


async def test_another_payload_under_a_done_jobs_id_is_refused(any_sessions: Sessions) -> None:
    """An id that is used again for other work is a producer's mistake, and is shown."""
    await run(any_sessions, delivery(CreateProject(name="One")))
    outcome = await run(any_sessions, delivery(CreateProject(name="Two")))
    assert isinstance(outcome, Buried)
    assert outcome.reason == "payload_mismatch"
    assert [project.name for project in await rows(any_sessions, Project)] == ["One"]


async def test_bad_bytes_are_kept_as_they_came(any_sessions: Sessions) -> None:
    """Undecodable: buried at once, with the bytes."""
    raw = b"\x80\x04\x95not ours"
    outcome = await run(any_sessions, Delivery("job-1", 1, raw))
    assert isinstance(outcome, Buried)
    buried = await letter(any_sessions, "job-1")
    assert (buried.reason, buried.raw, buried.kind) == ("undecodable", raw, None)
    assert buried.problems[0]["field"] == "body"


async def test_a_payload_that_breaks_rules_is_buried_with_every_field(
    any_sessions: Sessions,
) -> None:
    """Each field at fault is listed; a NUL that JSONB could not hold keeps the job as bytes."""
    raw = b'{"f": "create_task", "k": {"title": "a\\u0000b", "colour": 1}}'
    outcome = await run(any_sessions, Delivery("job-1", 1, raw))
    assert isinstance(outcome, Buried)
    buried = await letter(any_sessions, "job-1")
    assert {problem["field"] for problem in buried.problems} == {"title", "project_id", "colour"}
    assert (buried.kind, buried.raw) == ("create_task", raw)


async def test_a_payload_that_the_database_cannot_hold_is_kept_as_bytes(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The net below the checks: a letter that is refused is written again without the payload."""
    monkeypatch.setattr(
        "ledgerq.execution.dead_letter.storable_json", lambda payload: {"n": "\x00"}
    )
    arrived = delivery(CreateTask(title="x", project_id=99))
    assert isinstance(await run(sessions, arrived), Buried)
    assert (await letter(sessions, "job-1")).raw == arrived.body


async def test_an_unknown_kind_is_tried_again_then_buried(any_sessions: Sessions) -> None:
    """In a rolling deploy a newer worker may know it."""
    raw = b'{"f": "create_invoice", "k": {"n": 1}}'
    assert isinstance(await run(any_sessions, Delivery("job-1", 1, raw)), Retry)
    assert await count(any_sessions, DeadLetter) == 0
    assert isinstance(await run(any_sessions, Delivery("job-1", 12, raw)), Buried)
    buried = await letter(any_sessions, "job-1")
    assert (buried.reason, buried.kind, buried.payload) == (
        "unknown_kind",
        "create_invoice",
        {"n": 1},
    )


@pytest.mark.parametrize("job_id", ["", "x" * 1000, "a\x00b", "\x1b[2J"])
async def test_an_id_that_cannot_be_stored_is_buried_under_one_that_can(
    any_sessions: Sessions, job_id: str
) -> None:
    """Readable, unique, and without what a terminal would obey."""
    body = delivery(CreateProject(name="x")).body
    assert isinstance(await run(any_sessions, Delivery(job_id, 1, body)), Buried)
    (buried,) = await rows(any_sessions, DeadLetter)
    assert buried.job_id.isprintable()
    assert len(buried.job_id) <= 200


async def test_a_cancellation_at_any_await_leaves_all_or_nothing(any_sessions: Sessions) -> None:
    """Cut off anywhere, the job is either done or not there; run again, it is done once."""
    project_id = await new_project(any_sessions)
    undone = 0
    for step in range(1, 200):
        arrived = delivery(CreateTask(title="x", project_id=project_id), f"job-{step}")
        try:
            await asyncio.create_task(cancelled_at(step, run(any_sessions, arrived)))
        except NeverReached:
            break
        except asyncio.CancelledError:
            undone += 1
            assert await effects(any_sessions, arrived.job_id) == (0, 0, 0), step
        else:
            assert await effects(any_sessions, arrived.job_id) == (1, 1, 1), step
        await run(any_sessions, arrived)
        assert await effects(any_sessions, arrived.job_id) == (1, 1, 1), step
    else:
        pytest.fail("the job never ended")
    assert undone >= 3  # BEGIN with the receipt, the row, its entry; the result goes with COMMIT
