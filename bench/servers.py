"""A PostgreSQL and a Redis for the run: real ones, fsync on, the same for everybody.

Each segment of the benchmark begins alike: a fresh copy of one template database, an empty Redis, a
checkpoint behind us.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
from redis.asyncio import Redis

from db.config import DatabaseConfig
from db.schema import migrate
from worker import embedded

ROOT = Path(__file__).resolve().parents[1]
TASKS = 30_000  # tasks that the template `filled` holds, for jobs that change one
SETTINGS = {
    "max_connections": "600",  # room for 32 workers of any make
    "track_commit_timestamp": "on",  # the moment of each commit, for latencies
}
_DATABASE = "bench"


@dataclass(frozen=True, slots=True)
class Servers:
    """Where the two are, and how to begin again."""

    sockets: str
    redis_url: str
    binaries: Path

    @property
    def database_url(self) -> str:
        """The database of the segment that runs."""
        return self._url(_DATABASE)

    @property
    def environment(self) -> dict[str, str]:
        """What a process of a contender is given."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("LEDGERQ_", "BENCH_"))}
        return {
            **kept,
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    @asynccontextmanager
    async def database(self, name: str = _DATABASE) -> "AsyncIterator[asyncpg.Connection[Any]]":
        """A connection of the harness."""
        connection = await asyncpg.connect(self._url(name), command_timeout=120)
        try:
            yield connection
        finally:
            await connection.close()

    @asynccontextmanager
    async def redis(self) -> AsyncIterator[Redis]:
        """A Redis client of the harness."""
        client = Redis.from_url(self.redis_url)
        try:
            yield client
        finally:
            await client.aclose()

    async def begin_again(self, template: str) -> None:
        """An empty Redis and a fresh copy of the template `empty` or `filled`."""
        async with self.redis() as redis:
            await redis.flushall()
        async with self.database("postgres") as postgres:
            await postgres.execute(f"DROP DATABASE IF EXISTS {_DATABASE} WITH (FORCE)")
            await postgres.execute(f"CREATE DATABASE {_DATABASE} TEMPLATE {template}")
            await postgres.execute("CHECKPOINT")

    def _url(self, name: str) -> str:
        return f"postgresql://postgres@/{name}?host={self.sockets}"


@contextmanager
def servers() -> Iterator[Servers]:
    """Both, for the length of the block, with the templates made."""
    with (
        tempfile.TemporaryDirectory(prefix="ledgerq-bench-") as name,
        embedded.postgresql(Path(name) / "postgresql") as url,
        embedded.redis(Path(name) / "redis") as redis_url,
    ):
        sockets = parse_qs(urlsplit(url).query)["host"][0]
        data = Path(name) / "postgresql"
        ours = Servers(sockets, redis_url, _binaries(data))
        _set(ours)
        try:
            _control(ours, data, "restart")
            asyncio.run(_make_templates(ours))
            yield ours
        finally:
            _control(ours, data, "stop")  # its wheel does not know it since it was restarted


def _binaries(data: Path) -> Path:
    """Where the programs of the server are that runs: its wheel holds another version too."""
    return Path((data / "postmaster.opts").read_text().split()[0]).parent


def _set(servers: Servers) -> None:
    psql = [str(servers.binaries / "psql"), "-h", servers.sockets, "-U", "postgres", "-Xqc"]
    for name, value in SETTINGS.items():
        subprocess.run([*psql, f"ALTER SYSTEM SET {name} = {value}"], check=True)


def _control(servers: Servers, data: Path, verb: str) -> None:
    program, log = str(servers.binaries / "pg_ctl"), str(data / "log")
    owner = data.stat()  # not root: PostgreSQL refuses to be, so its wheel made it somebody else's
    user, group = (owner.st_uid, owner.st_gid) if os.geteuid() == 0 else (None, None)
    subprocess.run(
        [program, "-D", str(data), "-l", log, "-m", "fast", "-w", verb],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=user,
        group=group,
    )


async def _make_templates(servers: Servers) -> None:
    async with servers.database("postgres") as postgres:
        await postgres.execute("CREATE DATABASE empty")
    url = servers._url("empty")  # noqa: SLF001 - ours
    await asyncio.to_thread(migrate, DatabaseConfig(url=url))
    async with servers.database("empty") as empty:
        await empty.execute("INSERT INTO project (name) VALUES ('bench')")
    async with servers.database("postgres") as postgres:
        await postgres.execute("CREATE DATABASE filled TEMPLATE empty")
    async with servers.database("filled") as filled:
        await filled.execute(
            "INSERT INTO task (title, project_id) SELECT 'bench ' || n, 1 "
            "FROM generate_series(1, $1::int) AS n",
            TASKS,
        )
        await filled.execute("VACUUM ANALYZE")


def run(servers: Servers, command: list[str], *, seconds: float = 600, **more: str) -> str:
    """Run a command of a contender to its end; what it printed.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    done = subprocess.run(
        command,
        env={**servers.environment, **more},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return done.stdout


PYTHON = sys.executable
