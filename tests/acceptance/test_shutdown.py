"""A worker process that is told to stop, in mid-job too."""

import asyncio
import signal
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text

from db.models import Task
from jobs.kinds import CreateProject, CreateTask
from ledgerq import embedded
from ledgerq.broker.connection import connect
from ledgerq.client import JobClient
from ledgerq.config import Config
from ledgerq.database.engine import Sessions
from tests.acceptance.processes import OURS, STOCK, Process, worker_process
from tests.support import count, effects, eventually, new_project, waiting_for_a_lock

both_commands = pytest.mark.parametrize("command", [OURS, STOCK], ids=["ledgerq", "arq"])


async def ended(worker: Process, command: Sequence[str]) -> int:
    """Its exit status.

    arq's own may need a second signal: on Python 3.11 a cancellation of its main loop can be
    swallowed by `asyncio.wait_for` inside redis-py. Ours cancels until it is gone.
    """
    if command is STOCK:
        for _ in range(3):
            with suppress(subprocess.TimeoutExpired):
                return await asyncio.to_thread(worker.wait, 8)
            worker.signal(signal.SIGTERM)
    return await asyncio.to_thread(worker.wait)


@asynccontextmanager
async def audit_log_locked(sessions: Sessions) -> AsyncIterator[None]:
    """While this lasts, a job has added its rows and waits to write its audit entry."""
    async with sessions() as holder:
        await holder.execute(text("LOCK TABLE ledgerq.audit_log IN EXCLUSIVE MODE"))
        yield
        await holder.rollback()


async def backends(sessions: Sessions) -> int:
    """The server's sessions that belong to workers on this database."""
    async with sessions() as session:
        found = await session.scalar(
            text(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name LIKE 'ledgerq:%'"
            )
        )
        return found or 0


@both_commands
async def test_an_idle_worker_ends_at_once_with_status_0(
    command: Sequence[str], config: Config, sessions: Sessions
) -> None:
    """The engine is disposed: no backend of the worker is left. This one is started as a person does it."""
    with worker_process(config, command, True) as worker:
        assert await backends(sessions) >= 1
        worker.signal(signal.SIGTERM)
        assert await ended(worker, command) == 0
        assert worker.events[-1]["event"] == "worker.stopped"
    assert await backends(sessions) == 0


@both_commands
async def test_a_running_job_may_end_and_nothing_new_is_claimed(
    command: Sequence[str], config: Config, client: JobClient, sessions: Sessions
) -> None:
    """After SIGTERM the job in hand commits; the one that came later stays on the queue."""
    project_id = await new_project(sessions)
    with worker_process(config, command) as worker:
        async with audit_log_locked(sessions):
            first = await client.enqueue(CreateTask(title="first", project_id=project_id))
            await eventually(lambda: waiting_for_a_lock(sessions, "INSERT INTO ledgerq.audit_log"))
            worker.signal(signal.SIGTERM)
            if command is STOCK:
                await asyncio.sleep(0.5)  # it does not say that it has heard
            else:
                await asyncio.to_thread(worker.wait_for, "worker.stopping")
            later = await client.enqueue(CreateTask(title="later", project_id=project_id))
            await asyncio.sleep(0.3)  # as long as it would take to claim the second
        assert await ended(worker, command) == 0
    assert await effects(sessions, first.job_id) == (1, 1, 1)
    assert await effects(sessions, later.job_id) == (0, 0, 0)
    assert await is_queued(config, later.job_id)
    assert await backends(sessions) == 0


@both_commands
async def test_a_job_that_does_not_end_in_time_is_rolled_back_and_runs_again(
    command: Sequence[str], config: Config, client: JobClient, sessions: Sessions
) -> None:
    """SIGTERM in mid-job leaves no row; the next worker does the job, once."""
    project_id = await new_project(sessions)
    with worker_process(config, command, LEDGERQ_DRAIN_TIMEOUT="1") as worker:
        async with audit_log_locked(sessions):
            job = await client.enqueue(CreateTask(title="cut off", project_id=project_id))
            await eventually(lambda: waiting_for_a_lock(sessions, "INSERT INTO ledgerq.audit_log"))
            worker.signal(signal.SIGTERM)
            assert await ended(worker, command) == 0
            assert await count(sessions, Task) == 0
            assert await backends(sessions) == 0
    assert await is_queued(config, job.job_id)
    with worker_process(config, command) as worker:
        assert await job.result(timeout=20)
    assert await effects(sessions, job.job_id) == (1, 1, 1)


async def test_a_second_sigterm_does_not_cut_a_job_short(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """Impatience changes nothing: the job in hand still commits, the status is still 0."""
    project_id = await new_project(sessions)
    with worker_process(config) as worker:
        async with audit_log_locked(sessions):
            job = await client.enqueue(CreateTask(title="x", project_id=project_id))
            await eventually(lambda: waiting_for_a_lock(sessions, "INSERT INTO ledgerq.audit_log"))
            worker.signal(signal.SIGTERM)
            worker.signal(signal.SIGTERM)
            await asyncio.sleep(0.2)
        assert await asyncio.to_thread(worker.wait) == 0
    assert await effects(sessions, job.job_id) == (1, 1, 1)


async def is_queued(config: Config, job_id: str) -> bool:
    """True if the job waits on the queue, held by nobody."""
    redis = connect(config.worker)
    try:
        queued = await redis.zscore(config.worker.queue, job_id)
        held = await redis.exists(f"arq:in-progress:{job_id}")
        return queued is not None and not held
    finally:
        await redis.aclose(close_connection_pool=True)


def _close_all(server: socket.socket) -> None:
    with suppress(OSError):
        while True:
            server.accept()[0].close()


@pytest.mark.parametrize("how", ["closes", "says nothing"])
async def test_a_redis_that_is_of_no_use_does_not_keep_the_worker(
    config: Config, tmp_path: Path, how: str
) -> None:
    """It accepts connections and closes them, or says nothing: SIGTERM ends the worker all the same, with status 0."""
    limits = {"LEDGERQ_DRAIN_TIMEOUT": "1", "LEDGERQ_STOP_GRACE": "1"}
    with ExitStack() as until_it_stops:
        url = until_it_stops.enter_context(embedded.redis(tmp_path / "redis", tcp=True))
        with worker_process(config, REDIS_URL=url, **limits) as worker:
            until_it_stops.close()
            with socket.create_server(("127.0.0.1", urlsplit(url).port or 0)) as of_no_use:
                if how == "closes":
                    threading.Thread(target=_close_all, args=(of_no_use,), daemon=True).start()
                await asyncio.to_thread(worker.wait_for, "redis.unavailable")
                worker.signal(signal.SIGTERM)
                assert await asyncio.to_thread(worker.wait, 20) == 0


@both_commands
async def test_no_log_line_shows_what_a_job_carries(
    command: Sequence[str], config: Config, client: JobClient
) -> None:
    """By arq's command line too, whose own lines would: each line is ours, and is written once."""
    secret = "what-nobody-is-to-read"
    with worker_process(config, command) as worker:
        await (await client.enqueue(CreateProject(name=secret))).result(timeout=20)
        worker.wait_for("job.completed")
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    assert secret not in "".join(worker.lines)
    (begun,) = (n for n, line in enumerate(worker.lines) if '"worker.started"' in line)
    assert all(line.startswith("{") for line in worker.lines[begun:]), worker.lines
