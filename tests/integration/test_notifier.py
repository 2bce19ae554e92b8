"""A worker hears of jobs: it does not find them at its next look."""

import asyncio
import json
from collections.abc import AsyncIterator

import arq
import pytest
from arq.connections import RedisSettings

from jobs.kinds import CreateProject
from ledgerq.client import JobClient
from ledgerq.config import Config
from ledgerq.database.engine import Sessions
from ledgerq.database.transaction import transaction
from ledgerq.staging import stage
from tests.support import done, eventually, our_worker
from worker.app import app

LAUNCH = CreateProject(name="Launch")
SOON = 20  # seconds; a look by itself comes once a minute here


@pytest.fixture
async def patient(config: Config) -> AsyncIterator[Config]:
    """A running worker that looks by itself once a minute."""
    worker = config.worker.model_copy(update={"poll_delay": 60.0, "relay_interval": 60.0})
    patient = Config(worker, config.database)
    running = our_worker(patient, app.registry(), handle_signals=False)
    task = asyncio.create_task(running.main())

    async def told() -> bool:
        return running._poller._is_listening and running._poller.waiting.is_set()

    await eventually(told)
    yield patient
    await running.close()
    await task


async def ended(sessions: Sessions, jobs: int) -> None:
    async def all_done() -> bool:
        return await done(sessions) == jobs

    await eventually(all_done, seconds=SOON)


async def test_jobs_of_every_sort_of_client_are_heard(
    patient: Config, client: JobClient, sessions: Sessions
) -> None:
    """Ours, a stock arq client's, one staged in a transaction; one after another, and at once."""
    await client.enqueue(LAUNCH)
    await ended(sessions, 1)
    stock = await arq.create_pool(
        RedisSettings.from_dsn(patient.worker.redis_url.get_secret_value()),
        job_serializer=lambda content: json.dumps(content).encode(),
        job_deserializer=json.loads,
    )
    await stock.enqueue_job("create_project", name="from arq")
    await ended(sessions, 2)
    async with transaction(sessions) as session:
        await stage(session, LAUNCH)
    await ended(sessions, 3)
    await asyncio.gather(*(client.enqueue(LAUNCH) for _ in range(20)))
    await ended(sessions, 23)
    await stock.aclose(close_connection_pool=True)


@pytest.mark.whole_redis
async def test_an_emptied_redis_is_heard(patient: Config, sessions: Sessions) -> None:
    """What is staged comes back at once, not at the relay's next look."""
    async with transaction(sessions) as session:
        await stage(session, LAUNCH, job_id="a")
    await ended(sessions, 1)
    redis = arq.connections.ArqRedis.from_url(patient.worker.redis_url.get_secret_value())
    async with transaction(sessions) as session:
        job = await stage(session, LAUNCH, job_id="b")
        await redis.flushall()
    assert job.is_new
    await ended(sessions, 2)
    await redis.aclose(close_connection_pool=True)
