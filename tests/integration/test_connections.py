"""Connections to Redis that look alive and are of no use: each caller gets another one, or one sentence."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import pytest
import redis as redis_sync
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError
from sqlalchemy.engine import make_url
from structlog.testing import capture_logs

from jobs.kinds import CreateProject
from ledgerq import embedded
from ledgerq.admin import health
from ledgerq.broker.connection import connect, require_redis
from ledgerq.broker.notifier import QueueNotifier
from ledgerq.broker.presence import note_wait
from ledgerq.broker.requirements import unfit
from ledgerq.client import JobClient
from ledgerq.config import Config, WorkerConfig
from ledgerq.database.settings import DatabaseConfig
from ledgerq.errors import RedisRefuses
from tests.support import redis_number

LAUNCH = CreateProject(name="Launch")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis that these tests may make unusable."""
    with embedded.redis(tmp_path_factory.mktemp("unusable")) as url:
        yield url


@pytest.fixture
def admin(server: str) -> Iterator[redis_sync.Redis]:
    """Its administrator; afterwards it is usable again."""
    with redis_sync.Redis.from_url(server) as client:
        client.flushall()
        yield client
        client.execute_command("REPLICAOF", "NO", "ONE")
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")
        client.execute_command("ACL", "DELUSER", "limited")


def settings(url: str) -> WorkerConfig:
    return WorkerConfig(redis_url=url)


@asynccontextmanager
async def leads_to(*targets: str, number: int = 0) -> AsyncIterator[tuple[str, list[str]]]:
    """The URL of a name that leads to the first of these servers, and the list of them to change."""
    where = list(targets)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        place = urlsplit(where[0])
        if place.scheme == "unix":
            there, here = await asyncio.open_unix_connection(place.path)
        else:
            there, here = await asyncio.open_connection(place.hostname, place.port)
        try:
            await asyncio.gather(_pipe(reader, here), _pipe(there, writer))
        finally:
            here.close()

    async with _serving(serve) as url:
        yield url.replace("/0", f"/{number}"), where


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[str]:
    """The URL of a server that accepts, says this to the first command, and closes; or says nothing at all."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer is None:
            await reader.read()
        elif answer:
            await reader.read(10)
            writer.write(answer)

    async with _serving(serve) as url:
        yield url


@asynccontextmanager
async def _serving(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """The URL of a server made of that function; at the end nothing of it is left open."""
    open_ones = set[asyncio.Task[None]]()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        open_ones.add(task)
        try:
            await serve(reader, writer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    made = await asyncio.start_server(one, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{made.sockets[0].getsockname()[1]}/0"
    finally:
        made.close()
        for each in open_ones:
            each.cancel()
        await asyncio.gather(*open_ones, return_exceptions=True)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def test_a_producer_goes_on_after_a_demotion(
    admin: redis_sync.Redis, server: str, redis_url: str
) -> None:
    """The connection to what was the primary is dropped; the name leads to the new one."""
    number = redis_number(redis_url)
    async with (
        leads_to(server, number=number) as (url, where),
        JobClient.open(settings(url)) as client,
    ):
        await client.enqueue(LAUNCH)
        _demote(admin)
        with pytest.raises(ReadOnlyError, match=r"REDIS_URL: Redis at .* is read-only: a replica"):
            await client.enqueue(LAUNCH)
        where[0] = redis_url
        assert (await client.enqueue(LAUNCH)).is_new


@pytest.mark.whole_redis
async def test_scripts_that_redis_forgot_are_sent_again(client: JobClient, redis_url: str) -> None:
    """SCRIPT FLUSH between any two commands, while ten producers work: nobody hears of it."""
    with redis_sync.Redis.from_url(redis_url) as admin:

        async def produce() -> None:
            for _ in range(10):
                admin.script_flush()
                await client.enqueue(LAUNCH)

        await asyncio.gather(*(produce() for _ in range(10)))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "closes connections at once|Connection (closed|reset)|Broken pipe|closed by server"),
        (b"-ERR max number of clients reached\r\n", "max number of clients reached"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "loading"),
        (b"-MASTERDOWN Link with MASTER is down\r\n", "MASTERDOWN"),
        (b"-NOAUTH Authentication required.\r\n", "does not let user 'default' in"),
    ],
)
async def test_a_server_that_is_of_no_use_is_named_within_seconds(answer: bytes, said: str) -> None:
    """It accepts and closes, is full of clients, loads: one sentence, no recursion, for whoever asks."""
    async with answering(answer) as url, asyncio.timeout(10):
        redis = connect(settings(url))
        with pytest.raises((RedisError, OSError), match=said) as caught:
            await redis.get("x")
        assert len(str(caught.value).splitlines()) == 1
        await redis.aclose(close_connection_pool=True)


async def test_an_idle_connection_that_died_is_replaced(
    admin: redis_sync.Redis, server: str
) -> None:
    """redis-py asks an idle one before a command; dead, it is replaced once."""
    redis = connect(settings(server))
    await redis.ping()
    (connection,) = redis.connection_pool._available_connections
    connection.next_health_check = 0.0
    admin.client_kill_filter(_type="normal", skipme=True)
    assert await redis.ping()
    connection.next_health_check = 0.0
    assert await redis.ping()
    await redis.aclose(close_connection_pool=True)


async def test_a_full_redis_says_so_to_a_producer_and_to_health(
    admin: redis_sync.Redis, server: str, config: Config
) -> None:
    """One sentence; a worker starts all the same, to take jobs off the queue."""
    async with JobClient.open(settings(server)) as client:
        admin.config_set("maxmemory", 1)
        with pytest.raises(OutOfMemoryError, match="is full and takes no more jobs; free memory"):
            await client.enqueue(LAUNCH)
        await require_redis(client._redis)
    checks = {each.name: each for each in await health.check(_on(config, server))}
    assert not checks["redis"].ok
    assert "maxmemory" in checks["redis"].detail
    admin.config_set("maxmemory", 0)
    admin.config_set("maxmemory-policy", "allkeys-lru")
    checks = {each.name: each for each in await health.check(_on(config, server))}
    assert checks["redis"].ok
    assert (checks["memory"].ok, checks["memory"].warn) == (True, True)
    assert "allkeys-lru" in checks["memory"].detail


async def test_a_read_only_redis_is_named_by_health_and_at_the_start(
    admin: redis_sync.Redis, server: str, config: Config
) -> None:
    """A write that changes nothing tells."""
    _demote(admin)
    checks = {each.name: each for each in await health.check(_on(config, server))}
    assert not checks["redis"].ok
    assert "read-only" in checks["redis"].detail
    redis = connect(settings(server))
    with pytest.raises(RedisRefuses, match="read-only"):
        await require_redis(redis)
    await redis.aclose(close_connection_pool=True)


def _demote(admin: redis_sync.Redis) -> None:
    admin.execute_command("REPLICAOF", "127.0.0.1", "1")  # type: ignore[no-untyped-call]


def _limit(admin: redis_sync.Redis, password: str, *rules: str) -> None:
    """Make the user `limited` with these rights."""
    words = ("ACL", "SETUSER", "limited", "reset", "on", f">{password}", *rules)
    admin.execute_command(*words)  # type: ignore[no-untyped-call]


ALL = ("~*", "&*", "+@all")


@pytest.mark.parametrize(
    ("rules", "problem", "cure"),
    [
        ((*ALL, "-client"), "client", r"ACL SETUSER limited \+client"),
        ((*ALL, "-client|tracking"), "may not run CLIENT", r"ACL SETUSER limited \+client"),
        ((*ALL, "-evalsha"), "evalsha", r"ACL SETUSER limited \+evalsha"),
        ((*ALL, "-eval"), "eval", r"ACL SETUSER limited \+eval"),
        ((*ALL, "-hrandfield"), "may not run HRANDFIELD", r"ACL SETUSER limited \+hrandfield"),
        (("~arq:*", "&*", "+@all"), "key ledgerq:", r"ACL SETUSER limited ~ledgerq:"),
        (("~ledgerq:*", "~arq:queue", "&*", "+@all"), "key arq:", r"ACL SETUSER limited ~arq:"),
        (("~ledgerq:*", "~arq:[jria]*", "&*", "+@all"), "key arq:queue", "~arq:queue"),
    ],
)
async def test_a_missing_right_is_named_with_the_rule_that_mends_it(
    admin: redis_sync.Redis,
    server: str,
    config: Config,
    *,
    rules: tuple[str, ...],
    problem: str,
    cure: str,
) -> None:
    """At the start of a worker and by health; the password is not shown."""
    _limit(admin, "hunter2", *rules)
    url = server.replace("://", "://limited:hunter2@")
    redis = connect(settings(url))
    with pytest.raises(RedisRefuses, match=problem) as caught:
        await require_redis(redis)
    await redis.aclose(close_connection_pool=True)
    checks = {each.name: each for each in await health.check(_on(config, url))}
    assert not checks["redis"].ok
    for said in (str(caught.value), checks["redis"].detail):
        assert "hunter2" not in said
        assert re.search(cure, said), said


async def test_a_user_with_all_that_is_needed_passes_without_info(
    admin: redis_sync.Redis, server: str
) -> None:
    """The rights that the docs name suffice; INFO may be forbidden."""
    rules = ("~arq:*", "~ledgerq:*", "&__redis__:invalidate", "+@all", "-@dangerous")
    _limit(admin, "hunter2", *rules)
    redis = connect(settings(server.replace("://", "://limited:hunter2@")))
    await require_redis(redis)
    assert admin.keys("*") == []
    await redis.aclose(close_connection_pool=True)


def test_old_and_clustered_servers_are_refused() -> None:
    """By what INFO says; where it says nothing, nothing is refused."""
    old, cluster = unfit({"redis_version": "6.2.14"}), unfit({"redis_mode": "cluster"})
    assert old
    assert "6.2.14" in old.problem
    assert cluster
    assert "cluster mode" in cluster.problem
    assert unfit({}) is None
    assert unfit({"redis_version": "7.2.4", "valkey_version": "9.1.2"}) is None


async def test_a_server_that_never_answers_is_seen_by_health_in_time(config: Config) -> None:
    """Redis or PostgreSQL accepts and is silent: the check of the other one is not held up."""
    async with answering(None) as url, asyncio.timeout(15):
        port = url.rpartition(":")[2].partition("/")[0]
        silent = DatabaseConfig(url=make_url(f"postgresql://me:x@127.0.0.1:{port}/app"))
        checks = {c.name: c for c in await health.check(_on(config, url), seconds=2)}
        assert (checks["redis"].ok, checks["database"].ok, checks["schema"].ok) == (
            False,
            True,
            True,
        )
        assert "no answer within 2 s" in checks["redis"].detail
        checks = {c.name: c for c in await health.check(Config(config.worker, silent), seconds=2)}
        assert (checks["redis"].ok, checks["database"].ok) == (True, False)


async def test_health_tells_what_jobs_wait_for(config: Config, client: JobClient) -> None:
    """As a note: it is no failure."""
    await note_wait(client._redis, config.worker.queue, "lock", "x" * 400)
    (note,) = [each for each in await health.check(config) if each.name == "waits"]
    assert (note.ok, note.warn) == (True, True)
    assert "lock: " + "x" * 300 + " (" in note.detail


async def test_a_worker_without_a_right_to_listen_says_so(
    admin: redis_sync.Redis, server: str
) -> None:
    """It polls then; the rule that mends it is in the log."""
    _limit(admin, "p", "~*", "+@all")
    redis = connect(settings(server.replace("://", "://limited:p@")))
    with capture_logs() as logs:
        wake = QueueNotifier(
            redis.connection_pool, ("arq:queue",), on_listening=lambda _: None,
            on_change=lambda: None, on_emptied=lambda: None,
            interested=asyncio.Event(),
        )  # fmt: skip
        listening = asyncio.create_task(wake.run())
        while not logs:
            await asyncio.sleep(0.01)
        listening.cancel()
        await asyncio.wait({listening})
    assert logs[0]["event"] == "notifier.not_permitted"
    assert "&__redis__:invalidate" in logs[0]["error"]
    await redis.aclose(close_connection_pool=True)


def _on(config: Config, url: str) -> Config:
    return Config(
        config.worker.model_copy(update={"redis_url": settings(url).redis_url}), config.database
    )
