"""A Redis and a PostgreSQL that can be killed, stopped, filled, emptied and set back, on the same address."""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import redis as redis_sync

from ledgerq import embedded
from ledgerq.embedded import both
from ledgerq.embedded.own_folder import make_private
from ledgerq.embedded.postgresql import (
    as_user,
    data_owners,
    init,
    programs_of_postgresql,
    server_user,
)

START_SECONDS = 30
LOCALHOST = "127.0.0.1"


class Redis:
    """One Redis with an append-only file that is flushed before it answers: a kill loses nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = both._free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, **more: str) -> None:
        """Start it on its port, with the data that it has."""
        self.folder.mkdir(parents=True, exist_ok=True)
        options = {
            "bind": LOCALHOST,
            "port": str(self.port),
            "dir": str(self.folder),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
            "auto-aof-rewrite-percentage": "0",
            "maxmemory-policy": "noeviction",
            "enable-debug-command": "local",
            "logfile": "redis.log",
            **more,
        }
        command = [str(both._redis_binary())]
        for name, value in options.items():
            command += [f"--{name}", value]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        wait_until(self.answers, "Redis does not start")

    def answers(self) -> bool:
        """True if it takes writes and reads."""
        try:
            with self.client(timeout=1) as client:
                return bool(client.ping())
        except (redis_sync.RedisError, OSError):
            return False

    def client(self, *, timeout: float = 5) -> redis_sync.Redis:
        """A client of the harness: straight, not through the proxy."""
        return redis_sync.Redis(LOCALHOST, self.port, socket_timeout=timeout)

    def signal(self, number: signal.Signals) -> None:
        """Send its process a signal, such as SIGSTOP."""
        if self._process:
            self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """An orderly end."""
        if self._process:
            embedded.stop(self._process)

    def copy_data(self, where: Path) -> None:
        """Keep its append-only file as it is now."""
        shutil.rmtree(where, ignore_errors=True)
        shutil.copytree(self.folder / "appendonlydir", where)

    def empty(self) -> None:
        """Take a stopped Redis' data away."""
        shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)

    def put_back(self, where: Path) -> None:
        """Set a stopped Redis back to that copy."""
        shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)
        shutil.copytree(where, self.folder / "appendonlydir")


class PostgreSQL:
    """One PostgreSQL with fsync on, reached on a Unix socket; the workers' role is no superuser."""

    DATABASE = "ledgerq"
    ROLE = "app"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self._programs = programs_of_postgresql()
        self._user = server_user()
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def create(cls, folder: Path) -> "PostgreSQL":
        """A new cluster with the role and its empty database, running."""
        made = cls(folder)
        make_private(made.data, data_owners())
        init(made._programs, made.data, made._user)
        made.start()
        made.execute(f"CREATE ROLE {cls.ROLE} LOGIN", database="postgres")
        made.execute(f"CREATE DATABASE {cls.DATABASE} OWNER {cls.ROLE}", database="postgres")
        return made

    @property
    def socket(self) -> Path:
        """The Unix socket, for the proxy."""
        return self.folder / ".s.PGSQL.5432"

    def start(self) -> None:
        """Start it; after a kill that may have to wait until the last of its children is gone."""
        self._launch()
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if time.monotonic() > deadline:
                raise TimeoutError(f"PostgreSQL does not start: {self._tail()}")
            if self._process and self._process.poll() is not None:
                time.sleep(0.1)
                self._launch()
            time.sleep(0.05)

    def _launch(self) -> None:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "fsync": "on",
            "max_connections": "90",
            "shared_buffers": "64MB",
            "track_commit_timestamp": "on",
            "deadlock_timeout": "200ms",
            "log_min_messages": "warning",
        }
        command = [*as_user(self._user), str(self._programs / "postgres"), "-D", str(self.data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True
            )

    def answers(self) -> bool:
        """True if it runs statements."""
        try:
            return bool(self.fetch("SELECT 1", database="postgres"))
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            return False

    def kill(self) -> None:
        """kill -9 of the postmaster; its children notice and go."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def stop(self, mode: str = "immediate") -> None:
        """`pg_ctl stop -m immediate` (SIGQUIT) or fast (SIGINT), and wait."""
        if self._process:
            self._process.send_signal(signal.SIGQUIT if mode == "immediate" else signal.SIGINT)
            try:
                self._process.wait(START_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill_backend(self, pid: int) -> None:
        """kill -9 of one backend: the server drops every connection and recovers."""
        with suppress(ProcessLookupError):
            if Path(f"/proc/{pid}/comm").read_text().startswith("postgres"):
                os.kill(pid, signal.SIGKILL)

    def worker_backends(self) -> dict[int, str]:
        """The pids of the workers' backends, with the worker's name."""
        found = self.fetch(
            "SELECT pid, application_name FROM pg_stat_activity "
            "WHERE application_name LIKE 'ledgerq:%' ORDER BY pid"
        )
        return {row["pid"]: row["application_name"] for row in found}

    def fetch(self, query: str, *arguments: Any, database: str = DATABASE) -> list[asyncpg.Record]:
        """Rows, over a connection of the harness: straight, not through the proxy."""
        return asyncio.run(self._fetch(query, arguments, database))

    async def _fetch(
        self, query: str, arguments: tuple[Any, ...], database: str
    ) -> list[asyncpg.Record]:
        connection = await self.connect(database)
        try:
            rows: list[asyncpg.Record] = await connection.fetch(query, *arguments)
            return rows
        finally:
            connection.terminate()

    async def connect(self, database: str = DATABASE, user: str = "postgres") -> Any:
        """A connection as the superuser, whom max_connections leaves a place."""
        return await asyncpg.connect(
            host=str(self.folder), user=user, database=database, timeout=5, command_timeout=60
        )

    def execute(self, statement: str, *, database: str = DATABASE) -> None:
        """One statement that answers nothing."""
        self.fetch(statement, database=database)

    def url(self, database: str = DATABASE) -> str:
        """For the product, straight to the Unix socket."""
        return f"postgresql://{self.ROLE}@/{database}?host={self.folder}"

    def copy_database(self, name: str) -> None:
        """Another database like the product's, under that name."""
        statement = f"CREATE DATABASE {name} TEMPLATE {self.DATABASE} OWNER {self.ROLE}"
        self.execute(statement, database="postgres")

    def _tail(self) -> str:
        return (self.folder / "log").read_text()[-800:]


@contextmanager
def servers(folder: Path) -> Iterator[tuple[Redis, PostgreSQL]]:
    """Both, new and empty; killed at the end."""
    redis = Redis(folder / "redis")
    postgresql: PostgreSQL | None = None
    try:
        redis.start()
        postgresql = PostgreSQL.create(folder / "postgresql")
        yield redis, postgresql
    finally:
        redis.kill()
        if postgresql is not None:
            postgresql.stop()


def wait_until(
    condition: Callable[[], object], problem: str, seconds: float = START_SECONDS
) -> None:
    """Poll for what sends no event."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(problem)
        time.sleep(0.02)
