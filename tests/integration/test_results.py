"""How long Redis keeps a result is the kind's to say; the database keeps each."""

from typing import Any

import pytest
from arq.connections import ArqRedis

from ledgerq import App, JobContext, Payload, job
from ledgerq.admin.job_status import job_status
from ledgerq.cli import main
from ledgerq.client import JobClient
from ledgerq.config import Config
from ledgerq.database.engine import Sessions
from ledgerq.errors import UsageError
from ledgerq.store.tables import ProcessedJob
from ledgerq.workers import build_worker
from tests.support import count, drain


class Kept(Payload[int], kind="kept", keep_result=60):
    """Redis keeps the result for a minute."""


class NotKept(Payload[int], kind="not_kept", keep_result=0):
    """Redis keeps no result."""


class Refused(NotKept, kind="refused"):
    """Inherits that."""


@pytest.mark.parametrize("shares_commit", [False, True])
async def test_a_kind_says_how_long_redis_keeps_its_results(
    config: Config, sessions: Sessions, redis: ArqRedis, client: JobClient, *, shares_commit: bool
) -> None:
    """With 0, nothing of the job is left there; the receipt answers, and a second delivery changes nothing."""

    @job(shares_commit=shares_commit)
    async def kept(context: JobContext, _: Kept) -> int:
        return 1

    @job(shares_commit=shares_commit)
    async def not_kept(context: JobContext, _: NotKept) -> int:
        return 2

    @job(shares_commit=shares_commit)
    async def refused(context: JobContext, _: Refused) -> int:
        raise ValueError("no")

    app = App(jobs=[kept, not_kept, refused], forget_ended_jobs=False)
    options: dict[str, Any] = {"burst": True, "handle_signals": False}
    waits = await client.enqueue(Kept(), job_id="kept")
    await client.enqueue(NotKept(), job_id="not-kept")
    await client.enqueue(Refused(), job_id="refused")
    await drain(build_worker(app, config, **options))
    assert await waits.result(timeout=5) == 1
    assert await redis.keys("arq:*:*") == [b"arq:result:kept"]
    assert 0 < await redis.ttl("arq:result:kept") <= 60
    assert (await job_status(config, "not-kept")).result == 2
    assert (await job_status(config, "refused")).state == "dead"
    await client.enqueue(NotKept(), job_id="not-kept")
    await drain(build_worker(app, config, **options))
    assert await count(sessions, ProcessedJob) == 3
    assert await redis.keys("arq:*:*") == [b"arq:result:kept"]


def test_the_command_line_does_not_wait_for_such_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so before it enqueues the job."""
    monkeypatch.setattr(main, "checked_payload", lambda kind, payload: NotKept())
    with pytest.raises(UsageError, match="--wait: Redis keeps no result of not_kept"):
        main.enqueue("not_kept", wait=5)
