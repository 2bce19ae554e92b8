"""Several queues from the command line, with real processes."""

import json
import signal

import pytest

from db.models import Project
from jobs.kinds import CreateProject
from ledgerq.broker.connection import connect
from ledgerq.broker.presence import living_workers
from ledgerq.client import JobClient
from ledgerq.config import Config
from ledgerq.database.engine import Sessions
from ledgerq.wire.request import Request
from tests.acceptance.processes import OURS, Process, environment, ledgerq, one_line, worker_process
from tests.support import count, done, eventually

SERVES_BOTH = (*OURS, "--queue", "billing", "--queue", "default")


def launches(jobs: int) -> list[Request]:
    """Every other one for the second queue."""
    queues = [None, "billing"]
    return [Request(CreateProject(name=f"p{n}"), queue=queues[n % 2]) for n in range(jobs)]


async def test_a_worker_of_two_queues_that_is_killed_costs_seconds(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """Killed -9 amid the jobs of both: another one, told by LEDGERQ_QUEUES, runs what it held, once each."""
    quick = {"LEDGERQ_LEASE": "1", "LEDGERQ_BATCH": "20", "LEDGERQ_LOG_LEVEL": "DEBUG"}

    async def all_done() -> bool:
        return await done(sessions) == 600

    with worker_process(config, SERVES_BOTH, **quick) as first:
        await client.enqueue_many(launches(600))
        first.wait_for("group.completed")
        first.signal(signal.SIGKILL)
        first.wait()
    assert await done(sessions) < 600
    with worker_process(config, LEDGERQ_QUEUES="default,billing", **quick):
        await eventually(all_done)
    assert await count(sessions, Project) == 600


async def test_processes_of_one_supervisor_serve_the_queues_that_it_was_told(
    config: Config, client: JobClient
) -> None:
    """And nothing else: a job of the default queue waits."""
    command = [*OURS, "--processes", "2", "--queue", "billing"]
    supervisor = Process(command, environment(config, LEDGERQ_QUEUES="default"))
    redis = connect(config.worker)

    async def both_seen() -> bool:
        return len(await living_workers(redis, "billing")) == 2

    try:
        supervisor.wait_for("worker.started", times=2)
        await eventually(both_seen)
        waits, runs = await client.enqueue_many(launches(2))
        assert await runs.result(timeout=10)
        assert await redis.zscore("arq:queue", waits.job_id) is not None
        assert await living_workers(redis) == []
    finally:
        supervisor.close()
        await redis.aclose(close_connection_pool=True)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--queue", ""], "must have 1 to 200 printable characters"),
        (["--queue", "a", "--queue", "a"], "'a' is given twice"),
        (["--queue", "a,b"], "holds a comma"),
        (["--queue", "arq:job:x"], "is the name of a key"),
    ],
)
def test_a_queue_that_can_not_be_served_is_refused(
    config: Config, options: list[str], problem: str
) -> None:
    """In one line, before anything starts."""
    line = one_line(ledgerq("worker", *options, env=environment(config)), status=2)
    assert line.startswith("ledgerq: --queue: ")
    assert problem in line


async def test_commands_reach_every_queue(config: Config, sessions: Sessions) -> None:
    """enqueue, job, status and cancel."""
    env = environment(config, LEDGERQ_QUEUES="default,billing")
    fields = '{"name": "Launch"}'
    asked = [
        "enqueue",
        "create_project",
        "--payload",
        fields,
        "--job-id",
        "x",
        "--queue",
        "billing",
    ]
    assert ledgerq(*asked, env=env).returncode == 0
    found = json.loads(ledgerq("job", "x", "--json", env=env).stdout)
    assert (found["state"], found["queue"]) == ("queued", "billing")
    found = json.loads(ledgerq("status", "--json", env=env).stdout)
    assert {name: queue["queued"] for name, queue in found["queues"].items()} == {
        "arq:queue": 0,
        "billing": 1,
    }
    shown = ledgerq("status", env=env).stdout
    assert "billing" in shown
    elsewhere = environment(config)  # where the queue is not served, it can be named
    cancelled = ledgerq("cancel", "x", "--queue", "billing", env=elsewhere)
    assert (cancelled.returncode, "job x is cancelled" in cancelled.stdout) == (0, True)
    assert await count(sessions, Project) == 0
