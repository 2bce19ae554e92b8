"""Servers of our own for the whole run, a fresh database and an empty Redis for each test.

TEST_DATABASE_URL (a superuser's) and TEST_REDIS_URL run the same tests on servers of yours. With
`-n` each test process has servers of its own; on yours it has its own template and number of database.
"""

import asyncio
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import hypothesis
import pytest
import redis as redis_sync
from arq.connections import ArqRedis
from sqlalchemy.engine import URL, make_url

from db.database import build_database
from db.schema import migrate
from ledgerq import embedded
from ledgerq.broker.connection import connect
from ledgerq.client import JobClient
from ledgerq.config import Config, WorkerConfig
from ledgerq.database.engine import Database, Sessions
from ledgerq.database.settings import DatabaseConfig
from tests.support import own, own_number, redis_number

hypothesis.settings.register_profile(
    "ledgerq",
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],  # on a busy machine, anything is
)
hypothesis.settings.load_profile("ledgerq")

TEMPLATE = own("ledgerq_template")
MEMORY, ROOM = Path("/dev/shm"), 4 * 2**30  # noqa: S108 - pytest makes a folder of its own in it
QUICK = {
    "fsync": "off",  # a killed server loses nothing by it, and the machine does not crash
    "full_page_writes": "off",
    "max_wal_size": "256MB",
}
COPIED = "STRATEGY FILE_COPY"  # its checkpoints cost nothing without fsync; through WAL is dearer


if (
    "TMPDIR" not in os.environ
    and os.access(MEMORY, os.W_OK)
    and shutil.disk_usage(MEMORY).free > ROOM
):
    # before pytest makes its folder: what the servers and SQLite wait for is the disk
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


LONGEST = {"test_chaos", "test_docs", "test_init", "test_shop"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests that take longest begin first: else one process ends with them while the others have nothing left."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the person who runs the tests reaches them."""
    for name in list(os.environ):
        if name.startswith(("LEDGERQ_", "TASKMANAGER_", "DATABASE_URL", "REDIS_URL", "PG")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[URL]:
    """A PostgreSQL server; the URL of its administrator's database."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield make_url(given)
        return
    with embedded.postgresql(tmp_path_factory.mktemp("postgresql"), QUICK) as url:
        yield make_url(url)


@pytest.fixture(scope="session")
def template(postgresql: URL) -> str:
    """A database made by the migrations, to copy."""
    asyncio.run(_recreate(postgresql, TEMPLATE))
    migrate(DatabaseConfig(url=postgresql.set(database=TEMPLATE)))
    return TEMPLATE


@pytest.fixture
def empty_postgresql_url(postgresql: URL) -> Iterator[URL]:
    """A database of its own, without a schema."""
    name = f"test_{uuid4().hex}"
    asyncio.run(_recreate(postgresql, name))
    yield postgresql.set(database=name)
    asyncio.run(_administer(postgresql, f'DROP DATABASE "{name}" WITH (FORCE)'))


@pytest.fixture
def postgresql_url(postgresql: URL, template: str) -> Iterator[URL]:
    """A database of its own, with the schema."""
    name = f"test_{uuid4().hex}"
    copied = "" if os.environ.get("TEST_DATABASE_URL") else COPIED
    asyncio.run(_administer(postgresql, f'CREATE DATABASE "{name}" TEMPLATE {template} {copied}'))
    yield postgresql.set(database=name)
    asyncio.run(_administer(postgresql, f'DROP DATABASE "{name}" WITH (FORCE)'))


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a database made by the migrations."""
    path = tmp_path_factory.mktemp("sqlite") / "template.sqlite3"
    migrate(DatabaseConfig(url=f"sqlite:///{path}"))
    return path.read_bytes()


@pytest.fixture
def sqlite_url(sqlite_template: bytes, tmp_path: Path) -> URL:
    """A SQLite file of its own, with the schema."""
    path = tmp_path / "test.sqlite3"
    path.write_bytes(sqlite_template)
    return make_url(f"sqlite:///{path}")


@pytest.fixture
async def database(postgresql_url: URL) -> AsyncIterator[Database]:
    """A PostgreSQL database with the schema."""
    built = build_database(DatabaseConfig(url=postgresql_url))
    yield built
    await built.dispose()


@pytest.fixture
def sessions(database: Database) -> Sessions:
    """Sessions on that database."""
    return database.sessions


@pytest.fixture(params=["postgresql", "sqlite"])
def any_url(request: pytest.FixtureRequest) -> URL:
    """The same test on PostgreSQL and on SQLite, with the schema."""
    url: URL = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def ledgerq_new_database(any_url: URL) -> Callable[[], str]:
    """What `job_tester` asks for: either database, with the schema that the migrations make."""
    return lambda: any_url.render_as_string(hide_password=False)


@pytest.fixture
async def any_database(any_url: URL) -> AsyncIterator[Database]:
    """Either database."""
    built = build_database(DatabaseConfig(url=any_url))
    yield built
    await built.dispose()


@pytest.fixture
def any_sessions(any_database: Database) -> Sessions:
    """Sessions on either."""
    return any_database.sessions


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server; its URL."""
    given = os.environ.get("TEST_REDIS_URL")
    if given:
        yield _of_this_process(given)
        return
    with embedded.redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def redis_url(
    request: pytest.FixtureRequest, redis_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """An empty Redis; a test marked `whole_redis` has it to itself."""
    alone = request.node.get_closest_marker("whole_redis") is not None
    with ExitStack() as stack:
        if os.environ.get("TEST_REDIS_URL") and "PYTEST_XDIST_WORKER" in os.environ:
            locks = tmp_path_factory.getbasetemp().parent  # all test processes have it
            stack.enter_context(_held(locks, alone=alone))
        with redis_sync.Redis.from_url(redis_server) as client:
            client.flushdb()
        yield redis_server


@contextmanager
def _held(locks: Path, *, alone: bool) -> Iterator[None]:
    """The server that all test processes use: by one, or by all who leave alone what is not theirs."""
    with (locks / "turn").open("w") as turn, (locks / "redis").open("w") as lock:
        fcntl.flock(turn, fcntl.LOCK_EX)  # else who wants it alone would wait for ever
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(turn, fcntl.LOCK_UN)
        yield


@pytest.fixture
def config(postgresql_url: URL, redis_url: str) -> Config:
    """Settings for a quick worker on both servers."""
    return Config(
        WorkerConfig(redis_url=redis_url, poll_delay=0.02, drain_timeout=5),
        DatabaseConfig(url=postgresql_url),
    )


@pytest.fixture
async def redis(config: Config) -> AsyncIterator[ArqRedis]:
    """The client of a producer or an operator, which writes JSON."""
    opened = connect(config.worker)
    yield opened
    await opened.aclose(close_connection_pool=True)


@pytest.fixture
async def client(config: Config) -> AsyncIterator[JobClient]:
    """A producer."""
    async with JobClient.open(config.worker) as opened:
        yield opened


def _of_this_process(redis: str) -> str:
    """The URL with a number of database that no other test process has."""
    place, _, options = redis.partition("?")
    kept = [option for option in options.split("&") if option and not option.startswith("db=")]
    if not place.startswith("unix:"):
        scheme, _, rest = place.partition("://")
        place = f"{scheme}://{rest.partition('/')[0]}"
    return f"{place}?{'&'.join([*kept, f'db={redis_number(redis) + own_number()}'])}"


async def _recreate(postgresql: URL, name: str) -> None:
    await _administer(postgresql, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    await _administer(postgresql, f'CREATE DATABASE "{name}"')


async def _administer(postgresql: URL, statement: str) -> None:
    connection = await asyncpg.connect(plain(postgresql))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def plain(url: URL) -> str:
    """The URL as asyncpg itself takes it."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)
