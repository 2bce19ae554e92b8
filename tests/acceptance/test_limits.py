"""Commands end in time, by one line, whatever a server does that accepts connections."""

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from ledgerq.cli import limits
from ledgerq.config import Config
from tests.acceptance import forked
from tests.acceptance.processes import ROOT, environment, ledgerq, one_line


@pytest.fixture
def closing() -> Iterator[str]:
    """The URL of a server that accepts and closes at once."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ended = threading.Event()

        def serve() -> None:
            while not ended.is_set():
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"
        ended.set()
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that accepts and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


PAYLOAD = ("create_project", "--payload", '{"name": "x"}')


@pytest.mark.parametrize("command", [("worker",), ("enqueue", *PAYLOAD), ("status",)])
def test_a_server_that_closes_at_once_is_one_line(
    config: Config, closing: str, command: tuple[str, ...]
) -> None:
    """No recursion, no traceback, exit status 1, within seconds."""
    began = time.monotonic()
    said = one_line(ledgerq(*command, env=environment(config, REDIS_URL=closing)))
    assert "REDIS_URL" in said
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("kind", ["closing", "silent"])
def test_health_sees_a_server_of_no_use_within_five_seconds(
    config: Config, request: pytest.FixtureRequest, kind: str
) -> None:
    """It closes at once, or says nothing; the database is looked at all the same."""
    url = request.getfixturevalue(kind)
    before = time.monotonic()
    ledgerq("kinds")  # what it costs to start the process at all, on this machine
    began = time.monotonic()
    result = ledgerq("health", env=environment(config, REDIS_URL=url))
    assert time.monotonic() - began < began - before + 5
    assert result.returncode == 1
    assert "down redis" in result.stdout
    assert "ok   database" in result.stdout
    assert result.stderr == ""


def test_a_job_is_cancelled_in_time_though_redis_says_nothing(config: Config, silent: str) -> None:
    """The database decides, and has its turn before the time is over."""
    env = environment(config, REDIS_URL=silent)
    result = ledgerq("cancel", "x", "--because", "test", "--timeout", "2", env=env)
    assert result.returncode == 0, result.stderr
    assert "Redis was not told" in result.stderr


def test_a_command_ends_though_its_work_does_not_let_itself_be_cancelled() -> None:
    """Code that swallows each cancellation: the process ends a second after the limit, by one line."""
    source = (
        "import asyncio\nfrom ledgerq.cli.limits import run_within\n"
        "async def work():\n"
        "    while True:\n"
        "        try:\n            await asyncio.sleep(60)\n"
        "        except asyncio.CancelledError:\n            pass\n"
        "run_within(0.2, work())\n"
    )
    ended = forked.run(("-c", source), env=os.environ, cwd=ROOT, seconds=30)
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [f"ledgerq: {limits.TookTooLong(0.2)}"]
