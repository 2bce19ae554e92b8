"""Real processes: started, watched by what they log, and ended by id."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ledgerq.config import Config
from tests.acceptance import forked

ROOT = Path(__file__).resolve().parents[2]

OURS = (sys.executable, "-m", "ledgerq", "worker")
STOCK = (sys.executable, "-m", "arq", "worker.app.WorkerSettings")


def ledgerq(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run one command to its end, in a process that need not import the libraries."""
    words = ("-m", "ledgerq", *arguments)
    return forked.run(words, env={**os.environ, **(env or {})}, cwd=ROOT, seconds=60)


def ledgerq_anew(
    *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The same as a person starts it."""
    return subprocess.run(
        [sys.executable, "-m", "ledgerq", *arguments],
        env={**os.environ, **(env or {})},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def one_line(result: subprocess.CompletedProcess[str], *, status: int = 1) -> str:
    """What a failed command says: one line, no traceback, no password."""
    assert result.returncode == status, result.stderr
    assert "hunter2" not in result.stderr + result.stdout
    (line,) = result.stderr.strip().splitlines()
    return line


def _forked(command: Sequence[str], **how: Any) -> "forked.Popen | subprocess.Popen[bytes]":
    program, *arguments = command
    assert program == sys.executable
    return forked.Popen(arguments, **how)


def _anew(command: Sequence[str], **how: Any) -> "forked.Popen | subprocess.Popen[bytes]":
    return subprocess.Popen(command, **how)


class Process:
    """A process whose standard error is read line by line as it comes.

    A Python program is forked from a process that has imported the libraries; `anew` starts it as a person does.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: dict[str, str],
        *,
        start_new_session: bool = False,
        cwd: Path = ROOT,
        anew: bool = False,
    ) -> None:
        reading, writing = os.pipe()
        self._standard_error = os.fdopen(reading)
        try:
            self.process = (_anew if anew else _forked)(
                command,
                cwd=cwd,
                env=environment,
                stderr=writing,
                start_new_session=start_new_session,
            )
        finally:
            os.close(writing)
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._standard_error:
            with self._news:
                self.lines.append(line.rstrip())
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    @property
    def events(self) -> list[dict[str, Any]]:
        """The log lines so far."""
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    def named(self, event: str) -> list[dict[str, Any]]:
        """The log lines so far of that event."""
        return [each for each in self.events if each["event"] == event]

    def wait_for(self, event: str, *, times: int = 1, seconds: float = 30) -> None:
        """Wait until it has logged the event so often."""
        self._wait_until(lambda: len(self.named(event)) >= times, event, seconds)

    def wait_for_line(self, pattern: str, *, seconds: float = 30) -> re.Match[str]:
        """Wait until it has written such a line; how the line matches."""

        def found() -> list[re.Match[str]]:
            return [match for line in self.lines if (match := re.search(pattern, line))]

        self._wait_until(lambda: bool(found()), pattern, seconds)
        return found()[0]

    def _wait_until(self, reached: Callable[[], bool], what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        with self._news:
            while not reached():
                ended = self.process.poll() is not None and not self._reader.is_alive()
                left = deadline - time.monotonic()
                if ended or left <= 0:
                    raise AssertionError(f"no {what}:\n" + "\n".join(self.lines[-20:]))
                self._news.wait(min(left, 0.5))

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = 30) -> int:
        """Its exit status."""
        status = self.process.wait(seconds)
        self._reader.join(5)
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        self._standard_error.close()


def environment(config: Config, **more: str) -> dict[str, str]:
    """What a worker process of these settings is given."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("LEDGERQ_")},
        "DATABASE_URL": config.database.url.render_as_string(hide_password=False),
        "REDIS_URL": config.worker.redis_url.get_secret_value(),
        "LEDGERQ_LOG_FORMAT": "json",
        "LEDGERQ_POLL_DELAY": "0.02",
        **more,
    }


@contextmanager
def worker_process(
    config: Config, command: Sequence[str] = OURS, anew: bool = False, /, **more: str
) -> Iterator[Process]:
    """A worker that has started; killed at the end if it still runs."""
    process = Process(command, environment(config, **more), anew=anew)
    try:
        process.wait_for("worker.started")
        yield process
    finally:
        process.close()
