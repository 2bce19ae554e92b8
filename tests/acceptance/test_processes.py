"""Several workers under one command: restarted, stopped together, shown together."""

import asyncio
import os
import signal

from jobs.kinds import CreateTask
from ledgerq.broker.connection import connect
from ledgerq.broker.presence import living_workers
from ledgerq.client import JobClient
from ledgerq.config import Config
from ledgerq.database.engine import Sessions
from tests.acceptance.processes import OURS, Process, environment
from tests.support import done, eventually, new_project


def pids(supervisor: Process) -> list[int]:
    return [e["pid"] for e in supervisor.named("supervisor.worker_started")]


async def test_a_worker_that_is_killed_is_replaced_and_all_stop_together(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """Three workers; one is killed -9 and another takes its place; SIGTERM ends them all with status 0."""
    supervisor = Process([*OURS, "--processes", "3"], environment(config))
    try:
        supervisor.wait_for("worker.started", times=3)
        first = pids(supervisor)
        os.kill(first[0], signal.SIGKILL)
        supervisor.wait_for("worker.started", times=4)
        redis = connect(config.worker)
        expected = {str(pid) for pid in pids(supervisor)[1:]}

        async def all_seen() -> bool:
            return expected <= {name.split(":")[3] for name in await living_workers(redis)}

        await eventually(all_seen)
        await redis.aclose(close_connection_pool=True)
        project_id = await new_project(sessions)
        await client.enqueue_many(
            [CreateTask(title=f"t{n}", project_id=project_id) for n in range(100)]
        )

        async def all_done() -> bool:
            return await done(sessions) == 100

        await eventually(all_done)
        supervisor.signal(signal.SIGTERM)
        assert await asyncio.to_thread(supervisor.wait) == 0
        assert [e["event"] for e in supervisor.events].count("worker.stopped") == 3
    finally:
        supervisor.close()


async def test_no_worker_outlives_its_supervisor(config: Config, sessions: Sessions) -> None:
    """The supervisor is killed -9: its workers notice, and stop as if they were told to."""
    supervisor = Process([*OURS, "--processes", "2"], environment(config))
    try:
        supervisor.wait_for("worker.started", times=2)
        supervisor.signal(signal.SIGKILL)
        supervisor.wait_for("worker.stopped", times=2)
    finally:
        supervisor.close()


async def test_sigterm_before_the_workers_are_ready_is_no_failure(config: Config) -> None:
    """They have been started and know no signal yet: the exit status is 0 all the same."""
    supervisor = Process([*OURS, "--processes", "2"], environment(config))
    try:
        supervisor.wait_for("supervisor.worker_started", times=2)
        supervisor.signal(signal.SIGTERM)
        assert await asyncio.to_thread(supervisor.wait) == 0
    finally:
        supervisor.close()
