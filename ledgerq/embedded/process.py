"""One embedded server's process: starts it, waits until it is ready, stops it; also one that a killed run left over."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from ledgerq.embedded.own_folder import open_private
from ledgerq.errors import LedgerqError

_START_SECONDS = 20
_STOP_SECONDS = 10


class EmbeddedServerError(LedgerqError):
    """An embedded server could not be started."""


def start(
    command: list[str],
    log: Path,
    *,
    environment: Mapping[str, str] = os.environ,
    owners: Iterable[int] = (),
    secret: bytes = b"",
) -> subprocess.Popen[bytes]:
    """Start a server. Its output goes to the log; the files that it makes are closed to other users.

    The secret is written to its standard input, since all users of the machine may read its command line.
    """
    output = open_private(log, os.O_WRONLY | os.O_APPEND, owners)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=environment,
            umask=0o077,
            start_new_session=True,  # Ctrl-C must not end the server before the program that uses it
        )
    except OSError as error:
        raise EmbeddedServerError(f"{command[0]}: {error.strerror}") from error
    finally:
        os.close(output)
    if process.stdin:
        with suppress(BrokenPipeError), process.stdin:
            process.stdin.write(secret)
    return process


def wait_until_ready(
    process: subprocess.Popen[bytes], ready: Callable[[], bool], log: Path, name: str
) -> None:
    """Wait until `ready` returns True, for 20 s at most.

    Raises:
        EmbeddedServerError: the process ended, or was not ready in time; the text has the end of its log.
    """
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if ready():
            return
        time.sleep(0.02)
    said = log.read_text(errors="replace")[-500:] or f"exit status {process.poll()}"
    raise EmbeddedServerError(f"{name} in {log.parent} does not start: {said}")


def stop(
    process: subprocess.Popen[bytes],
    seconds: float = _STOP_SECONDS,
    number: signal.Signals = signal.SIGTERM,
) -> int:
    """Ask a process to end by a signal; kill it if it has not ended after `seconds`. Returns its exit status."""
    with suppress(ProcessLookupError):
        process.send_signal(number)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def stop_stale(pid_file: Path, program: str, owners: set[int], number: signal.Signals) -> None:
    """End a server that still runs on the folder of this pid file, because whoever had started it was killed.

    Sends the signal `number`, and waits for the end. By now, another process may have the pid in the file. So the process
    is only ended if it belongs to one of `owners`, runs `program`, and has the folder in its command line. On systems
    without /proc, nothing is ended.
    """
    with suppress(OSError, ValueError, AttributeError):  # macOS has neither /proc nor pidfd_open
        pid = int(pid_file.read_text(errors="replace").split("\n", 1)[0])
        process = os.pidfd_open(pid)  # stands for this process, even if the number is given anew
        try:
            if _is_ours(pid, program, pid_file.parent, owners):
                signal.pidfd_send_signal(process, number)
                _wait_for_end(pid, process)
        finally:
            os.close(process)


def _is_ours(pid: int, program: str, folder: Path, owners: set[int]) -> bool:
    about = Path(f"/proc/{pid}")
    words = (about / "cmdline").read_bytes().split(b"\0")
    runs_it = Path(os.fsdecode(words[0])).name == program
    return runs_it and os.fsencode(folder.resolve()) in words[1:] and about.stat().st_uid in owners


def _wait_for_end(pid: int, process: int) -> None:
    """Wait until the process has ended (a zombie counts as ended); kill it after 10 s."""
    deadline = time.monotonic() + _STOP_SECONDS
    status = Path(f"/proc/{pid}/stat")
    while status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z":
        if time.monotonic() > deadline:
            signal.pidfd_send_signal(process, signal.SIGKILL)
        time.sleep(0.05)
