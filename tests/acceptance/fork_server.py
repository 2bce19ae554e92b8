"""Python processes that are forked from this one, which has imported the libraries once: see `forked.py`.

Of the two seconds that a command takes, imports are most. A forked process goes on where `python` would: it has the
arguments, folder and environment that it is given, no other module of this repository than ledgerq's, and its
interpreter ends as any other. `ledgerq.cli` is imported anew: it reads its environment and its terminal.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import types
from contextlib import suppress
from typing import Any

_LIBRARIES = (
    "aiosqlite", "alembic.command", "arq.cli", "arq.worker", "asyncpg", "ledgerq.store.grants",
    "ledgerq.cli.main", "ledgerq.logs", "rich.progress", "sqlalchemy.dialects.sqlite.aiosqlite",
    "sqlalchemy.dialects.postgresql.asyncpg", "sqlmodel.ext.asyncio.session",
)  # fmt: skip
_LARGEST = 2**20  # bytes of a request
_NEW = ("ledgerq.__main__", "ledgerq.cli")


def serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork a process for each request. In the forked one: what it is asked to be; None once nobody asks any more.

    A request is JSON, beside it the three standard files and one on which the process id and later the exit status
    are told.
    """
    told: dict[int, int] = {}
    woken, wakes = os.pipe()
    for end in (woken, wakes):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    while True:
        ready, _, _ = select.select([control.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _tell_ends(told)
        if control.fileno() not in ready:
            continue
        request, files, _, _ = socket.recv_fds(control, _LARGEST, 4)
        if not request:
            _end(told)
            return None
        *standard, tell = files
        told[pid := os.fork()] = tell
        if not pid:
            _take(standard, [control.detach(), woken, wakes, *told.values()])
            asked: dict[str, Any] = json.loads(request)
            return asked
        _say(tell, pid)
        for file in standard:
            os.close(file)


def _end(told: dict[int, int]) -> None:
    for pid in told:
        os.kill(pid, signal.SIGKILL)


def _tell_ends(told: dict[int, int]) -> None:
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            file = told.pop(ended[0])
            _say(file, os.waitstatus_to_exitcode(ended[1]))
            os.close(file)


def _say(file: int, number: int) -> None:
    with suppress(BrokenPipeError):  # who asked has gone
        os.write(file, b"%d\n" % number)


def _take(standard: list[int], others: list[int]) -> None:
    """Make the three the standard files, and give up what is the server's."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, file in enumerate(standard):
        os.dup2(file, number)
    for file in {*standard, *others} - {0, 1, 2}:
        os.close(file)


def become(arguments: list[str], env: dict[str, str], cwd: str, *, session: bool) -> None:
    """Run `python` with these arguments: `-m` and a module, `-c` and code, or a file."""
    if session:
        os.setsid()
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    how, *rest = arguments
    if how == "-m":
        sys.argv, sys.path[0] = rest, cwd
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif how == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(rest[0], main.__dict__)  # noqa: S102 - as `python -c` does
    else:
        sys.argv, sys.path[0] = arguments, os.path.dirname(os.path.abspath(how))  # noqa: PTH100, PTH120 - quick
        runpy.run_path(how, run_name="__main__")


if __name__ == "__main__":
    sys.path[0] = ""
    for library in _LIBRARIES:
        importlib.import_module(library)
    for name in [each for each in sys.modules if each.startswith(_NEW)]:
        del sys.modules[name]
    gc.freeze()
    to_be = serve(socket.socket(fileno=os.dup(0)))
    if to_be is not None:
        become(**to_be)
