"""A PostgreSQL and a Redis for the run: real ones, fsync on, the same for everybody.

Each segment of the benchmark begins alike: a fresh copy of one template database, an empty Redis, a
checkpoint behind us.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
from redis.asyncio import Redis

from db.schema import migrate
from ledgerq import embedded
from ledgerq.database.settings import DatabaseConfig
from ledgerq.embedded.postgresql import programs_of_postgresql

ROOT = Path(__file__).resolve().parents[1]
GROWN = int(os.environ.get("GROWN", "10_000_000"))  # receipts and audit entries of a grown database
TASKS = 30_000  # tasks that the template `filled` holds, for jobs that change one
SETTINGS = {
    "max_connections": "600",  # room for 32 workers of any make
    "track_commit_timestamp": "on",  # the moment of each commit, for latencies
}
HARNESS = "bench harness"  # application_name of the harness's own connections
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
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    @asynccontextmanager
    async def database(self, name: str = _DATABASE) -> "AsyncIterator[asyncpg.Connection[Any]]":
        """A connection of the harness."""
        connection = await asyncpg.connect(
            self._url(name), command_timeout=120, server_settings={"application_name": HARNESS}
        )
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

    async def begin_again(self, template: str, root: Path = ROOT) -> None:
        """An empty Redis and a fresh copy of a template, made by that checkout: `empty`, `filled`, or `grown_` and a number."""
        if template.startswith("grown_"):
            await _make_grown(self, template)
        async with self.redis() as redis:
            await redis.flushall()
        async with self.database("postgres") as postgres:
            await postgres.execute(f"DROP DATABASE IF EXISTS {_DATABASE} WITH (FORCE)")
            await postgres.execute(f"CREATE DATABASE {_DATABASE} TEMPLATE {_of(template, root)}")
            # peers, and what counts their work, name the audit log as if it were their own
            await postgres.execute(f"ALTER DATABASE {_DATABASE} SET search_path = public, ledgerq")
            await postgres.execute("CHECKPOINT")

    def _url(self, name: str) -> str:
        return f"postgresql://postgres@/{name}?host={self.sockets}"


@contextmanager
def servers(roots: Iterable[Path] = (ROOT,)) -> Iterator[Servers]:
    """Both, for the length of the block, with the templates of these checkouts made.

    Redis is on TCP, as all contenders can use it.
    """
    with (
        tempfile.TemporaryDirectory(prefix="ledgerq-bench-") as name,
        embedded.postgresql(Path(name) / "postgresql", SETTINGS) as url,
        embedded.redis(Path(name) / "redis", tcp=True, with_jemalloc=True) as redis_url,
    ):
        sockets = parse_qs(urlsplit(url).query)["host"][0]
        ours = Servers(sockets, redis_url, programs_of_postgresql())
        for root in roots:
            asyncio.run(_make_templates(ours, root))
        yield ours


def _of(template: str, root: Path) -> str:
    """The name of a template of that checkout: each has a schema of its own."""
    return template if root == ROOT else f"{template}_before"


async def _make_templates(servers: Servers, root: Path) -> None:
    empty_name, filled_name = _of("empty", root), _of("filled", root)
    async with servers.database("postgres") as postgres:
        await postgres.execute(f"CREATE DATABASE {empty_name}")
    await asyncio.to_thread(_migrate, servers, empty_name, root)
    async with servers.database(empty_name) as empty:
        await empty.execute("INSERT INTO project (name) VALUES ('bench')")
    async with servers.database("postgres") as postgres:
        await postgres.execute(f"CREATE DATABASE {filled_name} TEMPLATE {empty_name}")
    async with servers.database(filled_name) as filled:
        await filled.execute(
            "INSERT INTO task (title, project_id) SELECT 'bench ' || n, 1 "
            "FROM generate_series(1, $1::int) AS n",
            TASKS,
        )
        await filled.execute("VACUUM ANALYZE")


async def _make_grown(servers: Servers, template: str) -> None:
    """As after years: so many jobs have ended, each with its entry. All new ids, of tasks too, come after theirs."""
    rows = int(template.removeprefix("grown_"))
    async with servers.database("postgres") as postgres:
        if await postgres.fetchval("SELECT true FROM pg_database WHERE datname = $1", template):
            return
        await postgres.execute(f"CREATE DATABASE {template} TEMPLATE empty")
    async with servers.database(template) as grown:
        for part in range(0, rows, 1_000_000):
            numbers = f"generate_series({part + 1}, {min(rows, part + 1_000_000)}) AS n"
            await grown.execute(
                "INSERT INTO ledgerq.processed_job (job_id, kind, payload_hash, result) SELECT "  # noqa: S608
                "lpad(to_hex(n), 32, '0'), 'create_task', sha256(n::text::bytea), to_jsonb(n) "
                f"FROM {numbers}"
            )
            await grown.execute(
                "INSERT INTO ledgerq.audit_log "  # noqa: S608
                "(entity_type, entity_id, action, actor, before, after, job_id, kind, attempt) "
                "SELECT 'task', n::text, 'create', 'bench', '{}', jsonb_build_object('title', n::text), "
                f"lpad(to_hex(n), 32, '0'), 'create_task', 1 FROM {numbers}"
            )
        await grown.execute("SELECT setval(pg_get_serial_sequence('task', 'id'), $1)", rows)
        await grown.execute("VACUUM ANALYZE")


def _migrate(servers: Servers, database: str, root: Path) -> None:
    url = servers._url(database)  # noqa: SLF001 - ours
    if root == ROOT:
        migrate(DatabaseConfig(url=url))
    else:
        command = [str(root / ".venv" / "bin" / "ledgerq"), "migrate"]
        environment = {**servers.environment, "DATABASE_URL": url, "PYTHONPATH": str(root)}
        subprocess.run(command, cwd=root, env=environment, check=True, stdout=subprocess.DEVNULL)


def run(servers: Servers, command: list[str], *, seconds: float = 600, **more: str) -> str:
    """Run a command of a contender to its end; what it printed.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    done = subprocess.run(
        command,
        env={**servers.environment, "PYTHONPATH": str(ROOT), **more},
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
