"""Real Python processes that start at once: forked from one which has imported the libraries (`fork_server.py`).

They are started, signalled and waited for as by `subprocess`. Tests of how a process starts start one anew.
"""

import atexit
import json
import math
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

_SERVER = Path(__file__).with_name("fork_server.py")
_one_at_a_time = threading.Lock()


@cache
def _server() -> socket.socket:
    """The fork server; it ends with what it has forked when nobody holds this socket."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        process = subprocess.Popen(
            [sys.executable, str(_SERVER)], stdin=its.fileno(), start_new_session=True
        )
    atexit.register(process.wait)
    atexit.register(ours.close)
    return ours


class Popen:
    """What `subprocess.Popen([sys.executable, *arguments], …)` is, as far as the tests use it."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        stdin: int | None = None,
        stdout: int = 1,
        stderr: int = 2,
        start_new_session: bool = False,
    ) -> None:
        asked = {
            "arguments": [*arguments],
            "env": {**env},
            "cwd": str(cwd),
            "session": start_new_session,
        }
        nothing = os.open(os.devnull, os.O_RDONLY)
        self._told, tells = os.pipe()
        self._one_hears = threading.Lock()
        self.returncode: int | None = None
        try:
            files = [nothing if stdin is None else stdin, stdout, stderr, tells]
            with _one_at_a_time:
                socket.send_fds(_server(), [json.dumps(asked).encode()], files)
        finally:
            os.close(tells)
            os.close(nothing)
        self._said = b""
        while b"\n" not in self._said:
            self._hear()
        self.pid = int(self._said.split(b"\n")[0])

    def _hear(self) -> None:
        more = os.read(self._told, 100)
        if not more:
            raise ChildProcessError("the fork server has ended")
        self._said += more

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, once it has ended: the number of a signal, below zero, if one ended it.

        Raises:
            TimeoutExpired: it has not ended in so many seconds.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            left = max(0, deadline - time.monotonic())
            with self._one_hears:  # another thread may ask too
                if self.returncode is not None:
                    return self.returncode
                ready, _, _ = select.select([self._told], [], [], min(left, 0.1))
                if ready:
                    self._hear()
                    _, status, *rest = self._said.split(b"\n")
                    if rest:
                        self.returncode = int(status)
                        os.close(self._told)
            if not ready and left <= 0:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)

    def send_signal(self, number: int) -> None:
        """Unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


def run(
    arguments: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    seconds: float,
    text: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """What `python` with these arguments says, told that text, and its exit status.

    Raises:
        TimeoutExpired: it has not ended by then; it is killed.
    """
    with TemporaryFile("w+") as given, TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        given.write(text or "")
        given.seek(0)
        process = Popen(
            arguments,
            env=env,
            cwd=cwd,
            stdin=given.fileno(),
            stdout=out.fileno(),
            stderr=err.fileno(),
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise subprocess.TimeoutExpired(arguments, seconds, _all(out), _all(err)) from None
        status = process.wait()
        return subprocess.CompletedProcess(arguments, status, _all(out), _all(err))


def _all(file: IO[str]) -> str:
    file.seek(0)
    return file.read()
