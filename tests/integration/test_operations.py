"""Cancel and replay with a worker that runs: what a person asks for is what happens to the job."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from arq.connections import ArqRedis

from db import projects
from db.inputs import NewProject
from db.models import Project
from ledgerq.admin.cancel import cancel
from ledgerq.admin.dead_letters import replay
from ledgerq.admin.job_status import job_status
from ledgerq.admin.status import status
from ledgerq.broker import keys
from ledgerq.client import JobClient
from ledgerq.config import Config
from ledgerq.database.engine import Sessions
from ledgerq.database.transaction import transaction
from ledgerq.errors import JobFailed
from ledgerq.execution.registry import Registry
from ledgerq.job import JobContext, Kind
from ledgerq.staging import stage
from ledgerq.store.tables import AuditLog, DeadLetter, JobState, OutboxMessage, ProcessedJob
from ledgerq.wire.payload import Payload
from tests.support import count, eventually, halt, our_worker, rows

QUEUE = "arq:queue"


class Slow(Payload, kind="slow"):
    """A job that adds a project and never ends, if it is told so."""

    hang: bool = False
    fail: bool = False


async def slow(context: JobContext, payload: Slow) -> int:
    project = await projects.create(context.session, context.origin, NewProject(name="half done"))
    if payload.fail:
        raise ValueError("made up")
    if payload.hang:
        await asyncio.Event().wait()
    return project.id


REGISTRY = Registry([Kind(Slow, slow)])


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[None]:
    worker = our_worker(config, REGISTRY, handle_signals=False)
    task = asyncio.create_task(worker.main())
    try:
        yield
    finally:
        await halt(worker, task)


@pytest.mark.parametrize("staged", [True, False])
async def test_a_running_job_is_rolled_back_and_never_runs_again(
    config: Config, sessions: Sessions, client: JobClient, redis: ArqRedis, staged: bool
) -> None:
    """Its worker hears of it, gives it back, and goes on; who waits for the job hears of it too."""
    if staged:
        async with transaction(sessions) as session:
            await stage(session, Slow(hang=True), job_id="job")
    else:
        await client.enqueue(Slow(hang=True), job_id="job")

    async def runs() -> bool:
        return (await job_status(config, "job")).state == "running"

    async with running(config):
        await eventually(runs)
        found = await status(config)
        assert found.queue
        assert [each.job_id for each in found.queue.running] == ["job"]
        asked = await cancel(redis, sessions, QUEUE, "job", actor="me", reason="")
        assert (asked.state, asked.known, asked.redis_reached) == (JobState.CANCELLED, True, True)
        with pytest.raises(JobFailed, match="was cancelled"):
            await client.job("job").result(timeout=10)
        after = await client.enqueue(Slow())
        assert await after.result(timeout=10)
    left = {key.decode() for key in await redis.keys("*job")} - {keys.result_key("job")}
    assert left == set()
    assert await redis.zcard(QUEUE) == await redis.hlen(keys.running_key(QUEUE)) == 0  # type: ignore[misc]
    assert await count(sessions, Project) == 1
    assert await count(sessions, OutboxMessage) == 0
    states = {row.job_id: row.state for row in await rows(sessions, ProcessedJob)}
    assert states == {"job": JobState.CANCELLED, after.job_id: JobState.DONE}


async def test_a_mended_job_is_run_by_the_next_worker(
    config: Config, sessions: Sessions, client: JobClient, redis: ArqRedis
) -> None:
    """Buried, replayed with another payload while its old result is kept, relayed, done once."""
    impatient = config.worker.model_copy(update={"max_attempts": 1})
    async with running(Config(impatient, config.database)):
        job = await client.enqueue(Slow(fail=True), job_id="job", actor="user:7")
        with pytest.raises(JobFailed, match="made up"):
            await job.result(timeout=10)
        said = {"actor": "me", "reason": "mended"}
        await replay(redis, sessions, QUEUE, ["job"], payload={"fail": False}, **said)

        async def done() -> bool:
            return (await job_status(config, "job")).state == "done"

        await eventually(done)
    (project,) = await rows(sessions, Project)
    entries = [(e.action, e.actor, e.entity_type) for e in await rows(sessions, AuditLog)]
    assert entries == [("replay", "me", "dead_letter"), ("create", "user:7", "project")]
    assert await job.result(timeout=10) == project.id
    assert await count(sessions, DeadLetter) == await count(sessions, OutboxMessage) == 0
