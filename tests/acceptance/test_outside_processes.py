"""Real workers whose jobs call a party over HTTP, killed and stopped while they wait."""

import asyncio
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import redis as redis_sync

from db.models import Project
from ledgerq.broker.keys import failures_key, in_progress_key_prefix
from ledgerq.client import JobClient
from ledgerq.config import Config
from ledgerq.database.engine import Sessions
from ledgerq.store.tables import JobStep
from tests.acceptance.outside_jobs import Block, Import, Order, party
from tests.acceptance.processes import Process, environment, ledgerq, worker_process
from tests.chaos.proxy import Hop, proxy
from tests.support import count, eventually, letter, rows

OURS = (sys.executable, "-m", "tests.acceptance.outside_jobs")
QUICK = {"LEDGERQ_LEASE": "3"}  # a killed worker's jobs come back after it


async def steps_done(sessions: Sessions) -> list[str]:
    return [each.name for each in await rows(sessions, JobStep) if each.state == "done"]


async def test_a_killed_workers_successor_reads_what_was_answered(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """The recorded step is not called again; the one under way is, with the same key."""
    with party() as (it, url):
        it.held = {"mail"}
        with worker_process(config, OURS, **QUICK) as worker:
            job = await client.enqueue(Order(url=url, steps=["charge", "mail"]), job_id="order")
            await eventually(lambda: asked(it, "mail"))
            worker.signal(signal.SIGKILL)
        assert await steps_done(sessions) == ["charge"]
        it.let_go.set()
        with worker_process(config, OURS, **QUICK):
            assert await job.result(timeout=40) == 1
        assert it.calls == {"charge": 1, "mail": 2}
        assert sorted(it.effects.values()) == [1, 1]
    assert await count(sessions, Project) == 1


async def asked(it: object, name: str) -> bool:
    return bool(it.calls[name])  # type: ignore[attr-defined]


async def test_a_worker_that_is_stopped_hands_a_waiting_job_on(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """It goes on elsewhere from its last record, and spends no attempt."""
    with party() as (it, url):
        it.held = {"mail"}
        with worker_process(config, OURS, LEDGERQ_DRAIN_TIMEOUT="1") as worker:
            job = await client.enqueue(Order(url=url, steps=["charge", "mail"]), job_id="order")
            await eventually(lambda: asked(it, "mail"))
            worker.signal(signal.SIGTERM)
            assert worker.wait(20) == 0
        it.let_go.set()
        with worker_process(config, OURS):
            assert await job.result(timeout=20) == 1
        assert it.calls == {"charge": 1, "mail": 2}
    step = next(each for each in await rows(sessions, JobStep) if each.name == "mail")
    assert step.attempt == 1


async def test_a_cancelled_job_stops_at_once(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """It does not wait for the party."""
    with party() as (it, url):
        it.held = {"mail"}
        with worker_process(config, OURS):
            await client.enqueue(Order(url=url, steps=["charge", "mail", "more"]), job_id="order")
            await eventually(lambda: asked(it, "mail"))
            done = ledgerq(
                "cancel", "order", "--because", "test", "--timeout", "15", env=environment(config)
            )
            assert done.returncode == 0, done.stderr
            assert "is cancelled" in done.stdout
        assert it.calls == {"charge": 1, "mail": 1}
    assert await count(sessions, Project) == 0


@pytest.mark.parametrize("happened", [True, False])
async def test_a_step_in_doubt_is_resolved_by_a_person(
    config: Config, client: JobClient, sessions: Sessions, happened: bool
) -> None:
    """`ledgerq job` shows it; after `dead resolve` and a replay the job goes on from there."""
    env = {**environment(config), "LEDGERQ_APP": "tests.acceptance.outside_jobs:APP"}
    with party() as (it, url):
        it.held = {"charge"}
        with worker_process(config, OURS, **QUICK) as worker:
            order = Order(url=url, steps=["charge"], at_most_once=True)
            await client.enqueue(order, job_id="order")
            await eventually(lambda: asked(it, "charge"))
            worker.signal(signal.SIGKILL)
        it.let_go.set()
        with worker_process(config, OURS, **QUICK):

            async def buried() -> bool:
                return ledgerq("dead", "show", "order", env=env).returncode == 0

            await eventually(buried)
            assert (await letter(sessions, "order")).reason == "in_doubt"
            assert "in doubt" in ledgerq("job", "order", env=env).stdout
            said = ["--happened", '{"key": "by hand"}'] if happened else ["--did-not-happen"]
            done = ledgerq("dead", "resolve", "order", "--step", "charge", *said, env=env)
            assert done.returncode == 0, done.stderr
            assert ledgerq("dead", "replay", "order", env=env).returncode == 0

            async def finished() -> bool:
                return await count(sessions, Project) == 1

            await eventually(finished)
        assert it.calls["charge"] == (1 if happened else 2)
    [project] = await rows(sessions, Project)
    assert (project.name == "by hand") == happened
    shown = ledgerq("job", "order", env=env).stdout
    assert '"done":1' in shown.replace(" ", "")
    wrong = ledgerq("dead", "resolve", "order", "--step", "charge", "--did-not-happen", env=env)
    assert "not among the dead letters: order" in wrong.stderr


async def test_a_job_of_many_leases_runs_once_and_tells_its_progress(
    config: Config, client: JobClient, redis_url: str, sessions: Sessions
) -> None:
    """Its lease is renewed all along, so that a second worker does not take it; `ledgerq job` shows how far it is."""
    env = {**environment(config), "LEDGERQ_APP": "tests.acceptance.outside_jobs:APP"}
    lease = 1_000  # milliseconds
    limits = {"LEDGERQ_LEASE": "1"}

    async def expires() -> int:
        return int(str(redis.pexpiretime(f"{in_progress_key_prefix}import")))

    with (
        redis_sync.Redis.from_url(redis_url) as redis,
        party() as (it, url),
        worker_process(config, OURS, **limits) as one,
        worker_process(config, OURS, **limits) as two,
    ):
        it.held = {"page-2", "page-3"}
        job = await client.enqueue(Import(url=url, pages=3), job_id="import")
        for page in (2, 3):
            await asyncio.to_thread(it.wait_for, f"page-{page}")
            first = await expires()

            async def has_lasted(first: int = first) -> bool:
                return await expires() > first + 3 * lease

            await eventually(has_lasted)
            shown = json.loads(ledgerq("job", "import", "--json", env=env).stdout)
            assert (shown["state"], shown["attempt"]) == ("running", 1)
            assert (shown["progress"]["done"], shown["progress"]["of"]) == (page - 1, 3)
            it.answer_held()
        assert await job.result(timeout=20) == [3, 1]
        assert it.calls == {"page-1": 1, "page-2": 1, "page-3": 1}

        async def completed() -> list[str]:
            lines = one.named("job.completed") + two.named("job.completed")
            return [each["job_id"] for each in lines]

        await eventually(completed)  # the log may come after the answer
        assert await completed() == ["import"]
        assert not one.named("lease.lost") + two.named("lease.lost")
    assert await count(sessions, Project) == 1


async def test_a_step_that_blocks_the_loop_is_named_and_costs_waiting_jobs_nothing(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """The log has its job and its stack while it blocks; leases go on, and a second worker takes neither job."""
    limits = {"LEDGERQ_LEASE": "1", "LEDGERQ_BLOCKED_AFTER": "0.5"}
    with party() as (it, url), worker_process(config, OURS, **limits) as first:
        it.held = {"charge"}
        waits = await client.enqueue(Order(url=url, steps=["charge"]), job_id="waits")
        await asyncio.to_thread(it.wait_for, "charge")
        blocks = await client.enqueue(Block(seconds=4), job_id="blocks")
        await asyncio.to_thread(first.wait_for, "event_loop.blocked")
        with worker_process(config, OURS, **limits) as second:
            await blocks.result(timeout=20)
            it.let_go.set()
            assert await waits.result(timeout=20) == 1
            assert not second.named("job.completed") + second.named("job.duplicate")
        (blocked,) = first.named("event_loop.blocked")
        assert not first.named("lease.lost")
        assert it.calls == {"charge": 1}
    assert (blocked["job_id"], blocked["kind"]) == ("blocks", "block")
    assert "in block_loop" in blocked["stack"]
    assert sorted(await steps_done(sessions)) == ["block", "charge"]


@contextmanager
def cut_off(hop: Hop, worker: Process) -> Iterator[None]:
    """Redis is away for one worker alone."""
    hop.refuse()
    yield
    hop.resume()


@contextmanager
def stopped(hop: Hop, worker: Process) -> Iterator[None]:
    """The process of one worker stands still."""
    worker.signal(signal.SIGSTOP)
    yield
    worker.signal(signal.SIGCONT)


@pytest.mark.parametrize(("away", "crashes"), [(cut_off, 0), (stopped, 1)])
async def test_a_worker_that_could_not_reach_redis_takes_back_the_crash_of_its_job(
    config: Config,
    client: JobClient,
    redis_url: str,
    away: Callable[[Hop, Process], AbstractContextManager[None]],
    crashes: int,
) -> None:
    """Its job goes on elsewhere. A process that stood still leaves it: the job may have been the cause."""
    limits = {"LEDGERQ_LEASE": "2"}
    with proxy() as made, party() as (it, url), redis_sync.Redis.from_url(redis_url) as redis:
        at = redis.connection_pool.connection_kwargs
        hop = made.hop("redis", Path(at["path"]) if "path" in at else (at["host"], at["port"]))
        through = f"redis://127.0.0.1:{hop.port}/{at['db']}"
        it.held = {"charge"}
        with worker_process(config, OURS, **limits, REDIS_URL=through) as first:
            order = await client.enqueue(Order(url=url, steps=["charge"]), job_id="order")
            await eventually(lambda: asked(it, "charge"))
            with worker_process(config, OURS, **limits) as second:
                with away(hop, first):

                    async def claimed_by_second() -> bool:
                        return it.calls["charge"] == 2

                    await eventually(claimed_by_second, seconds=20)
                await asyncio.to_thread(first.wait_for, "lease.lost")
                key = failures_key("arq:queue", "order")

                told = "ack.lease_lost" if crashes else "crash.taken_back"
                await asyncio.to_thread(first.wait_for, told)
                assert redis.hget(key, "crashes") == str(crashes).encode()
                it.let_go.set()
                assert await order.result(timeout=20) == 1
                assert second.named("job.completed")
