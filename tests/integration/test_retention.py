"""Retention: what has long ended is forgotten, and nothing that may still come back."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from db import tasks
from db.models import Task
from jobs.kinds import CreateTask, PurgeDeletedTasks
from ledgerq.database.engine import Sessions
from ledgerq.database.transaction import transaction
from ledgerq.execution.outcome import Buried, Completed
from ledgerq.execution.retry import Policy
from ledgerq.retention import PruneProcessedJobs
from ledgerq.store import dead_letters, inbox, unique_keys
from ledgerq.store.tables import JobState, OutboxMessage, ProcessedJob, UniqueKey
from tests.support import ORIGIN, delivery, new_task, process_one, rows, staged_delivery
from worker.app import app

LONG_AGO = datetime.now(UTC) - timedelta(days=100)


async def ended_long_ago(sessions: Sessions, *job_ids: str) -> None:
    async with transaction(sessions) as session:
        for job_id in job_ids:
            await inbox.insert_receipt(session, job_id, "create_task", b"", state=JobState.DONE)
    await age(sessions)


async def age(sessions: Sessions) -> None:
    """Every job that has ended did so a hundred days ago."""
    async with transaction(sessions) as session:
        await session.execute(update(ProcessedJob).values(processed_at=LONG_AGO))


async def prune(sessions: Sessions, job_id: str = "prune", **payload: int) -> object:
    arrived = delivery(PruneProcessedJobs(**payload), job_id)
    return await process_one(arrived, app.registry(), sessions, Policy())


async def known(sessions: Sessions) -> set[str]:
    return {row.job_id for row in await rows(sessions, ProcessedJob)}


async def test_jobs_that_ended_long_ago_are_forgotten(any_sessions: Sessions) -> None:
    """The oldest first, so many at most; what ended lately is kept. The answer says how many went."""
    await ended_long_ago(any_sessions, "a", "b", "c")
    async with transaction(any_sessions) as session:
        await inbox.insert_receipt(session, "fresh", "create_task", b"")
    first = await prune(any_sessions, limit=2)
    assert isinstance(first, Completed)
    (following,) = await rows(any_sessions, OutboxMessage)
    assert first.result == {"jobs": 2, "unique_keys": 0, "next_job": following.job_id}
    assert await prune(any_sessions, "again") == Completed({"jobs": 1, "unique_keys": 0})
    assert await known(any_sessions) == {"fresh", "prune", "again"}


async def test_a_job_with_a_dead_letter_is_kept(any_sessions: Sessions) -> None:
    """However old: a redelivery must not run what a person has yet to decide on."""
    dead = delivery(CreateTask(title="x", project_id=99), "dead")
    assert isinstance(await process_one(dead, app.registry(), any_sessions, Policy()), Buried)
    await age(any_sessions)
    assert await prune(any_sessions) == Completed({"jobs": 0, "unique_keys": 0})
    assert await known(any_sessions) == {"dead", "prune"}
    async with transaction(any_sessions) as session:
        assert await dead_letters.find(session, "dead")


async def test_unique_keys_go_when_their_window_is_over(any_sessions: Sessions) -> None:
    """And not before."""
    async with transaction(any_sessions) as session:
        for key, days in (("over", 1), ("open", 3)):
            await unique_keys.take(session, "k", key, key, window=timedelta(days=days))
        for row in await session.scalars(select(UniqueKey)):
            row.expires_at -= timedelta(days=2)
    assert await prune(any_sessions) == Completed({"jobs": 0, "unique_keys": 1})
    assert [row.key for row in await rows(any_sessions, UniqueKey)] == ["open"]


async def test_no_job_is_forgotten_within_a_week(any_sessions: Sessions) -> None:
    """Less than seven days is refused: a job delivered again so late could run twice."""
    await ended_long_ago(any_sessions, "a")
    with pytest.raises(ValueError, match="older_than_days"):
        PruneProcessedJobs(older_than_days=6.9)
    rushed = PruneProcessedJobs.model_construct({"older_than_days"}, older_than_days=6)
    outcome = await process_one(delivery(rushed), app.registry(), any_sessions, Policy())
    assert isinstance(outcome, Buried)
    assert "a" in await known(any_sessions)


def test_it_runs_every_hour() -> None:
    """With its defaults."""
    (entry,) = (each for each in app.schedule if each.payload is PruneProcessedJobs)
    assert entry.hour is None
    assert len(entry.minute or ()) == len(entry.second or ()) == 1


async def run_what_is_staged(sessions: Sessions) -> int:
    """Until nothing is staged; how many jobs that took."""
    jobs = 0
    while messages := await rows(sessions, OutboxMessage):
        (message,) = messages  # one goes on, never two
        arrived = await staged_delivery(sessions, message.job_id)
        assert isinstance(await process_one(arrived, app.registry(), sessions, Policy()), Completed)
        jobs += 1
    return jobs


async def test_pruning_goes_on_until_it_has_kept_up(any_sessions: Sessions) -> None:
    """Each part stages the next in its own transaction, however many ticks have begun one."""
    await ended_long_ago(any_sessions, *(f"old-{n}" for n in range(23)))
    for tick in ("tick-1", "tick-2"):
        await prune(any_sessions, tick, limit=5)
    assert await run_what_is_staged(any_sessions) == 3
    assert not {job_id for job_id in await known(any_sessions) if job_id.startswith("old")}
    await ended_long_ago(any_sessions, *(f"old-{n}" for n in range(7)))
    await prune(any_sessions, "tick-3", limit=5)
    assert await run_what_is_staged(any_sessions) == 2


async def test_unique_keys_are_pruned_in_parts_too(any_sessions: Sessions) -> None:
    """However many windows have ended at once."""
    async with transaction(any_sessions) as session:
        for n in range(7):
            await unique_keys.take(session, "k", f"{n}", f"{n}", window=timedelta(days=1))
        for row in await session.scalars(select(UniqueKey)):
            row.expires_at -= timedelta(days=2)
    first = await prune(any_sessions, "tick", limit=5)
    assert isinstance(first, Completed)
    assert first.result["unique_keys"] == 5
    await run_what_is_staged(any_sessions)
    assert await rows(any_sessions, UniqueKey) == []


async def test_purging_goes_on_until_it_has_kept_up(any_sessions: Sessions) -> None:
    """Deleted tasks, leaves first, in parts."""
    parent = await new_task(any_sessions)
    for _ in range(4):
        await new_task(any_sessions, project_id=parent.project_id, parent_task_id=parent.id)
    async with transaction(any_sessions) as session:
        await tasks.delete(session, ORIGIN, parent.id, now=LONG_AGO)
    arrived = delivery(PurgeDeletedTasks(limit=2), "tick")
    outcome = await process_one(arrived, app.registry(), any_sessions, Policy())
    assert outcome == Completed(2)
    await run_what_is_staged(any_sessions)
    assert await rows(any_sessions, Task) == []
