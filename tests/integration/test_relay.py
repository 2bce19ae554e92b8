"""From the outbox to a running job: staged jobs reach Redis, and come back if it forgets them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy import text

from db.database import open_database
from db.models import Project, Task
from jobs.kinds import CreateProject, CreateTask
from ledgerq.broker.connection import connect
from ledgerq.broker.relay import Relay, _body
from ledgerq.client import JobClient
from ledgerq.config import Config
from ledgerq.database.engine import Sessions
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.transaction import transaction
from ledgerq.staging import stage_many
from ledgerq.store.tables import AuditLog, DeadLetter, OutboxMessage
from ledgerq.wire.envelope import decode
from ledgerq.wire.request import Request
from tests.support import count, done, drain, eventually, new_project, our_worker, rows
from worker.app import app

LAUNCH = CreateProject(name="Launch")


async def staged(sessions: Sessions, *requests: Request) -> None:
    async with transaction(sessions) as session:
        await stage_many(session, requests)


async def burst(config: Config) -> None:
    await drain(our_worker(config, app.registry(), burst=True, handle_signals=False))


@asynccontextmanager
async def relay_of(config: Config, sessions: Sessions) -> AsyncIterator[Relay]:
    redis = connect(config.worker)
    yield Relay(redis, sessions, config.worker.queue, 0.05)
    await redis.aclose(close_connection_pool=True)


async def test_a_staged_job_runs_once_and_leaves_nothing_behind(
    config: Config, sessions: Sessions
) -> None:
    """Committed with its producer's rows, relayed, done; outbox and queue are empty."""
    project_id = await new_project(sessions)
    task = CreateTask(title="staged", project_id=project_id)
    await staged(sessions, Request(task, actor="service:crm", job_id="once"))
    await burst(config)
    assert [each.title for each in await rows(sessions, Task)] == ["staged"]
    assert (await rows(sessions, AuditLog))[-1].actor == "service:crm"
    assert await count(sessions, OutboxMessage) == 0
    async with relay_of(config, sessions) as relay:
        assert await relay.redis.zcard(config.worker.queue) == 0


async def test_a_job_by_sql_runs_too(config: Config, sessions: Sessions) -> None:
    """Any language with a PostgreSQL driver is a producer."""
    async with transaction(sessions) as session:
        await session.execute(
            text(
                "SELECT ledgerq.enqueue_job('create_project', '{\"name\": \"From SQL\"}', actor => 'go')"
            )
        )
    await burst(config)
    assert [project.name for project in await rows(sessions, Project)] == ["From SQL"]
    assert (await rows(sessions, AuditLog))[-1].actor == "go"


async def test_on_sqlite_too(redis_url: str, sqlite_url: object) -> None:
    """The smallest use: one worker, one file, the same promise."""
    database = DatabaseConfig(url=sqlite_url)
    from ledgerq.config import WorkerConfig  # noqa: PLC0415

    config = Config(WorkerConfig(redis_url=redis_url, poll_delay=0.02), database)
    async with open_database(database) as opened:
        await staged(opened.sessions, Request(LAUNCH, job_id="once"))
        await burst(config)
        assert await count(opened.sessions, Project) == 1
        assert await count(opened.sessions, OutboxMessage) == 0


@pytest.mark.whole_redis
async def test_an_emptied_redis_is_filled_again(config: Config, sessions: Sessions) -> None:
    """All that was there and has not ended comes back at the relay's next look."""
    await staged(sessions, *(Request(LAUNCH, job_id=f"j{n}") for n in range(1200)))
    async with relay_of(config, sessions) as relay:
        assert [await relay.dispatch() for _ in range(4)] == [500, 500, 200, 0]
        await relay.redis.flushall()
        assert [await relay.dispatch() for _ in range(4)] == [500, 500, 200, 0]
        assert await relay.redis.zcard(config.worker.queue) == 1200
        await relay.redis.set(f"ledgerq:epoch:{config.worker.queue}", "another server's")
        assert await relay.dispatch() == 500


async def test_a_second_put_changes_nothing(config: Config, sessions: Sessions) -> None:
    """What is queued stays where it is; what lost its place, or its body, has both again."""
    await staged(sessions, Request(LAUNCH, job_id="a"), Request(LAUNCH, job_id="b"))
    async with relay_of(config, sessions) as relay:
        await relay.dispatch()
        redis, queue = relay.redis, config.worker.queue
        before = await redis.zrange(queue, 0, -1, withscores=True)
        await redis.delete(f"ledgerq:epoch:{queue}")
        assert await relay.dispatch() == 2
        assert await redis.zrange(queue, 0, -1, withscores=True) == before
        await redis.zrem(queue, "a")
        await redis.delete("arq:job:b", f"ledgerq:epoch:{queue}")
        assert await relay.dispatch() == 2
        assert await redis.zcard(queue) == 2
        assert await redis.exists("arq:job:b")


async def test_a_staged_job_whose_body_is_lost_is_sent_again_not_buried(
    config: Config, sessions: Sessions
) -> None:
    """The database has it: Redis' loss is nobody's dead letter."""
    await staged(sessions, Request(LAUNCH, job_id="a"))
    async with relay_of(config, sessions) as relay:
        await relay.dispatch()
        await relay.redis.delete("arq:job:a")
        await burst(config)
    assert await done(sessions) == 1
    assert await count(sessions, DeadLetter) == 0


async def test_what_redis_did_not_take_is_due_at_once(
    config: Config, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A push that fails does not cost half a minute."""
    await staged(sessions, Request(LAUNCH, job_id="a"))

    async def broken(*args: object, **kwargs: object) -> None:
        raise RedisConnectionError("cut")

    async with relay_of(config, sessions) as relay:
        with monkeypatch.context() as patch:
            patch.setattr("ledgerq.broker.relay.enqueue", broken)
            with pytest.raises(RedisConnectionError):
                await relay.dispatch()
        assert await relay.dispatch() == 1


async def test_a_row_out_of_shape_ends_among_the_dead_letters(
    config: Config, sessions: Sessions
) -> None:
    """By whose INSERT ever: it does not stop the relay, and it is seen."""
    insert = "INSERT INTO ledgerq.outbox_message (job_id, kind, payload, actor) VALUES"
    async with transaction(sessions) as session:
        await session.execute(text(f"{insert} ('list', 'create_project', '[1]', 'sql')"))
        await session.execute(text(f"{insert} ('kind', E'a\\nb', '{{}}', 'sql')"))
        # nobody knows the kind, so it was left to others for a while
        await session.execute(
            text(
                "UPDATE ledgerq.outbox_message SET next_dispatch_at = now() - interval '11 minutes' WHERE job_id = 'kind'"
            )
        )
        await session.execute(text(f"{insert} ('actor', 'create_project', '{{}}', E'a\\nb')"))
    await staged(sessions, Request(LAUNCH, job_id="good"))
    await burst(config)
    letters = {letter.job_id: letter.reason for letter in await rows(sessions, DeadLetter)}
    assert letters == {"list": "undecodable", "kind": "undecodable", "actor": "invalid_payload"}
    assert await done(sessions) == 1
    assert await count(sessions, OutboxMessage) == 0


async def test_jobs_of_one_key_run_in_order_on_two_workers(
    config: Config, sessions: Sessions
) -> None:
    """Forty jobs of two keys: each key's projects come in the order staged."""
    await staged(
        sessions,
        *(
            Request(CreateProject(name=f"{k}{n:02}"), ordering_key=k)
            for n in range(20)
            for k in "ab"
        ),
    )
    workers = [our_worker(config, app.registry(), handle_signals=False) for _ in range(2)]
    running = [asyncio.create_task(worker.main()) for worker in workers]

    async def all_done() -> bool:
        return await done(sessions) == 40

    await eventually(all_done)
    for worker, run in zip(workers, running, strict=True):
        await worker.close()
        await asyncio.wait({run}, timeout=5)
    names = [project.name for project in sorted(await rows(sessions, Project), key=lambda p: p.id)]
    for key in "ab":
        of_key = [name for name in names if name.startswith(key)]
        assert of_key == sorted(of_key)


async def test_a_producer_that_waits_is_answered(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """`client.job(id).result()` works for staged jobs too, once they are on Redis."""
    await staged(sessions, Request(LAUNCH, job_id="a"))
    await burst(config)
    (project,) = await rows(sessions, Project)
    assert await client.job("a").result(timeout=5) == project.id


async def test_an_author_that_can_not_travel_is_spelt_out_not_lost(
    config: Config, sessions: Sessions
) -> None:
    """Rows that somebody's SQL made: with an escape sequence as actor, and with a body that is too long."""
    await staged(sessions, Request(LAUNCH, job_id="odd"), Request(LAUNCH, job_id="long"))
    async with transaction(sessions) as session:
        odd, long = "me\x1b[2J", "x" * 1_100_000
        await session.execute(
            text(
                "UPDATE ledgerq.outbox_message SET actor = :odd, trace_id = :odd WHERE job_id = 'odd'"
            ),
            {"odd": odd},
        )
        await session.execute(
            text(
                "UPDATE ledgerq.outbox_message SET actor = 'me', payload = jsonb_build_object('name', CAST(:long AS text)) "
                "WHERE job_id = 'long'"
            ),
            {"long": long},
        )
    bodies = {each.job_id: _body(each, "q") for each in await rows(sessions, OutboxMessage)}
    travels = decode(bodies["odd"])
    assert (travels.actor, travels.trace_id, travels.payload) == (
        r"me\x1b[2J",
        r"me\x1b[2J",
        {"name": "Launch"},
    )
    assert b'"_actor":"me"' in bodies["long"]
    assert bodies["long"].endswith(b',"q":"q"}')
    await burst(config)
    assert [entry.actor for entry in await rows(sessions, AuditLog)] == [r"me\x1b[2J"]
    (letter,) = await rows(sessions, DeadLetter)
    assert letter.job_id == "long"
