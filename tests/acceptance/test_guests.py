"""Real worker processes whose jobs fork, block the event loop, and leave threads behind."""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from db.models import Project
from ledgerq.client import JobClient
from ledgerq.config import Config
from ledgerq.database.engine import Sessions
from ledgerq.errors import JobFailed
from ledgerq.store.tables import DeadLetter, ProcessedJob
from tests.acceptance.guests import Guest
from tests.acceptance.processes import worker_process
from tests.acceptance.test_shutdown import backends
from tests.support import count, eventually, letter, rows

GUESTS = (sys.executable, "-m", "tests.acceptance.guests")

CHILDREN: dict[str, Any] = {
    "terminated_child": -signal.SIGTERM,
    "child_returns": 0,
    "child_exits": 7,
    "child_awaits": 1,  # it has no event loop to wait in
    "child_runs_a_loop": 5,
    "child_returns_in_a_task": 0,
    "process_of_its_own": -signal.SIGTERM,
}


async def started(mark: Path) -> None:
    async def there() -> bool:
        return mark.exists() and bool(mark.read_text())

    await eventually(there)


async def test_a_job_may_have_children(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """Forked, terminated, left to return: the worker takes no signal for its own, and each job is done once."""
    with worker_process(config, GUESTS) as worker:
        for what, status in CHILDREN.items():
            job = await client.enqueue(Guest(what=what), job_id=what)
            assert await job.result(timeout=20) == [1, status], what
        assert not [
            e for e in worker.events if e["event"] in {"worker.stopping", "event_loop.blocked"}
        ]
        assert worker.process.poll() is None
    assert await count(sessions, Project) == await count(sessions, ProcessedJob) == len(CHILDREN)


async def test_an_exit_in_a_task_of_a_job_is_the_jobs_failure_alone(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """The worker goes on, the job is buried after its attempts, and its neighbour is done at its first one."""
    exits = ("exits_in_wait_for", "exits_in_a_group", "interrupts_in_gather")
    with worker_process(config, GUESTS, LEDGERQ_MAX_ATTEMPTS="2") as worker:
        neighbour = await client.enqueue(Guest(what="wait", seconds=4), job_id="neighbour")
        for what in exits:
            job = await client.enqueue(Guest(what=what), job_id=what)
            with pytest.raises(JobFailed):
                await job.result(timeout=20)
        assert (await neighbour.result(timeout=20))[0] == 1
        assert worker.process.poll() is None
        worker.signal(signal.SIGINT)
        assert await asyncio.to_thread(worker.wait, 15) == 0
    letters = {each.job_id: each for each in await rows(sessions, DeadLetter)}
    assert {each: len(letters[each].attempts) for each in exits} == dict.fromkeys(exits, 2)


async def test_a_child_keeps_no_connection_of_the_worker(
    config: Config, client: JobClient, sessions: Sessions, tmp_path: Path
) -> None:
    """The worker is killed, its job's child lives on: the server sees at once that the transaction is over."""
    mark = tmp_path / "mark"
    with worker_process(config, GUESTS) as worker:
        await client.enqueue(Guest(what="child_that_lives_on", seconds=60, mark=str(mark)))
        await started(mark)
        child = int(mark.read_text())
        try:
            worker.process.kill()

            async def gone() -> bool:
                return await backends(sessions) == 0

            await eventually(gone)
            os.kill(child, 0)  # it is still there
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


async def test_a_thread_does_not_keep_the_process(
    config: Config, client: JobClient, sessions: Sessions, tmp_path: Path
) -> None:
    """It ends within drain and grace, with status 0, and says what it left behind; the job is rolled back."""
    mark, limits = tmp_path / "mark", {"LEDGERQ_DRAIN_TIMEOUT": "1", "LEDGERQ_STOP_GRACE": "2"}
    with worker_process(config, GUESTS, **limits) as worker:
        await client.enqueue(Guest(what="thread", seconds=75, mark=str(mark)))
        await started(mark)
        worker.signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.wait, 15) == 0
        left = worker.named("shutdown.tasks_abandoned")
    assert len(left) == 1
    assert "thread asyncio_0" in left[0]["what"]
    assert await count(sessions, Project) == 0


async def test_a_blocked_loop_does_not_keep_the_process(
    config: Config, client: JobClient, tmp_path: Path
) -> None:
    """SIGTERM ends the worker though its loop does not hear of it, with the stack in the log."""
    mark, limits = tmp_path / "mark", {"LEDGERQ_DRAIN_TIMEOUT": "1", "LEDGERQ_STOP_GRACE": "0.5"}
    with worker_process(config, GUESTS, **limits) as worker:
        await client.enqueue(Guest(what="block", seconds=60, mark=str(mark)))
        await started(mark)
        worker.signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.wait, 15) == 1
        (left,) = worker.named("shutdown.tasks_abandoned")
    assert "in block" in left["stack"]


async def test_blocking_is_named_while_it_lasts_and_costs_bystanders_nothing(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """Longer than a lease: nobody else takes the jobs, each is done at its first attempt."""
    limits = {"LEDGERQ_LEASE": "1", "LEDGERQ_BLOCKED_AFTER": "0.5"}
    with worker_process(config, GUESTS, **limits) as first:
        bystander = await client.enqueue(Guest(what="wait", seconds=2), job_id="bystander")
        blocker = await client.enqueue(Guest(what="block", seconds=4), job_id="blocker")
        await asyncio.to_thread(first.wait_for, "event_loop.blocked")
        assert not first.named("job.completed")
        with worker_process(config, GUESTS, **limits) as second:
            assert (await bystander.result(timeout=20))[0] == 1
            assert (await blocker.result(timeout=20))[0] == 1
            assert not second.named("job.completed") + second.named("job.duplicate")
        (blocked,) = first.named("event_loop.blocked")
        assert not first.named("lease.lost")
    assert blocked["job_id"] == "blocker"
    assert "in block" in blocked["stack"]
    assert await count(sessions, Project) == 2


async def test_who_blocks_for_longer_than_its_timeout_has_spent_an_attempt(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """Another worker gets it as its second attempt, and the bystander, which pays nothing, as its first.

    The limit is that of the job's own kind; another kind of this worker may take an hour.
    """
    limits = {"LEDGERQ_LEASE": "1", "LEDGERQ_BLOCKED_AFTER": "0.3", "LEDGERQ_JOB_TIMEOUT": "4"}
    with worker_process(config, GUESTS, **limits) as first:
        bystander = await client.enqueue(Guest(what="wait", seconds=1), job_id="bystander")
        blocker = await client.enqueue(Guest(what="block_once", seconds=90), job_id="blocker")
        await asyncio.to_thread(first.wait_for, "event_loop.jobs_handed_back")
        (parted,) = first.named("event_loop.jobs_handed_back")
        assert (parted["job_id"], parted["jobs"]) == ("blocker", 2)
        with worker_process(config, GUESTS, **limits):
            assert (await bystander.result(timeout=30))[0] == 1
            assert (await blocker.result(timeout=30))[0] == 2
    assert {each.job_id: each.attempt for each in await rows(sessions, ProcessedJob)} == {
        "bystander": 1,
        "blocker": 2,
    }


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("what", ["uses_a_pool", "deaf_daemon"])
async def test_a_pool_and_a_deaf_child_end_with_the_worker(
    config: Config, client: JobClient, what: str
) -> None:
    """A pool that is left open is ended as the interpreter does it; a child that does not hear is killed."""
    limits = {"LEDGERQ_DRAIN_TIMEOUT": "1", "LEDGERQ_STOP_GRACE": "5"}
    with worker_process(config, GUESTS, **limits) as worker:
        _, child = await (await client.enqueue(Guest(what=what))).result(timeout=20)
        assert lives(child)
        worker.signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.wait, 15) == 0

        async def gone() -> bool:
            return not lives(child)

        await eventually(gone)


async def test_a_job_that_blocks_in_a_task_of_its_own_is_known(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """It is named, its attempts are spent, and it is buried in the end."""
    limits = {
        "LEDGERQ_BLOCKED_AFTER": "0.3", "LEDGERQ_JOB_TIMEOUT": "1", "LEDGERQ_MAX_ATTEMPTS": "2",
    }  # fmt: skip
    with worker_process(config, GUESTS, **limits) as worker:
        job = await client.enqueue(Guest(what="blocks_in_a_task", seconds=1.2), job_id="blocker")
        with pytest.raises(JobFailed):
            await job.result(timeout=30)
        assert worker.named("event_loop.blocked")[0]["job_id"] == "blocker"
    assert await count(sessions, Project) == 0


async def test_a_job_that_blocks_for_ever_is_buried_after_its_attempts(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """It costs a worker for each attempt, and each is started anew; then it is among the dead letters."""
    limits = {
        "LEDGERQ_BLOCKED_AFTER": "0.3", "LEDGERQ_JOB_TIMEOUT": "1", "LEDGERQ_MAX_ATTEMPTS": "2",
    }  # fmt: skip
    await client.enqueue(Guest(what="block", seconds=600), job_id="blocker")
    for _ in range(2):
        with worker_process(config, GUESTS, **limits) as worker:
            assert await asyncio.to_thread(worker.wait, 20) == 1
            assert worker.named("event_loop.jobs_handed_back")
    with worker_process(config, GUESTS, **limits) as worker:
        await asyncio.to_thread(worker.wait_for, "job.buried")
    kept = await letter(sessions, "blocker")
    assert kept.reason == "blocked_too_often"
    assert "blocked the event loop" in kept.error


async def test_a_stop_beside_a_blocked_loop_costs_bystanders_nothing(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """The process ends; the next worker does the bystander at its first attempt, without a crash."""
    limits = {"LEDGERQ_DRAIN_TIMEOUT": "1", "LEDGERQ_STOP_GRACE": "0.5"}
    with worker_process(config, GUESTS, **limits) as worker:
        bystander = await client.enqueue(Guest(what="wait", seconds=1), job_id="bystander")
        await client.enqueue(Guest(what="block_once", seconds=60), job_id="blocker")
        await asyncio.to_thread(worker.wait_for, "event_loop.blocked")
        worker.signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.wait, 20) == 1
    with worker_process(config, GUESTS, **limits):
        assert (await bystander.result(timeout=20))[0] == 1
        assert (await client.job("blocker").result(timeout=20))[0] == 2
    assert await rows(sessions, DeadLetter) == []
