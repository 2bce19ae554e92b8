"""What a job's own child processes must not inherit: our signal handlers, our event loop, our connections.

A forked child shares them with the worker. A SIGTERM to the child would go to the worker's loop, by the pipe that both
have; a child that lives on would keep the worker's transactions open at the server after the worker has died; one that
reads from a connection would take the worker's answers. Processes that are started otherwise (exec) inherit none of it.
"""

import asyncio
import os
import signal
import sys
import threading
import traceback
from functools import cache
from typing import Any, NoReturn
from weakref import WeakSet

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_held = threading.local()
_loops: WeakSet[asyncio.AbstractEventLoop] = WeakSet()


def end_in_children(loop: asyncio.AbstractEventLoop) -> None:
    """From now on, in each process that is forked from this one, the loop and its connections are of no use."""
    _loops.add(loop)
    _register()


@cache
def _register() -> None:
    os.register_at_fork(
        before=_hold_signals, after_in_parent=_let_signals, after_in_child=_in_child
    )


def _hold_signals() -> None:
    """A signal to the child that comes before it has handlers of its own waits until it has."""
    _held.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _let_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _held.mask)


def _in_child() -> None:
    try:
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    finally:
        for loop in tuple(_loops):
            _cut_off(loop)
        _loops.clear()
        _let_signals()


class _Leaves:
    """In the place of a loop's selector: a child that comes back into the loop ends there."""

    def select(self, timeout: float | None = None) -> NoReturn:
        leave_child(None)

    def get_map(self) -> None:
        return None

    def close(self) -> None:
        """There is nothing to close."""


def _cut_off(loop: Any) -> None:
    """Put nothing in the place of all that the loop listens to, has to do, and listens with."""
    selector = getattr(loop, "_selector", None)
    if selector is None or selector.get_map() is None:
        return
    ready = getattr(loop, "_ready", None)
    if ready is not None:  # what the worker would do next is not the child's to do
        leave = asyncio.Handle(leave_child, (None,), loop)
        count = len(ready) + 1
        ready.clear()
        ready.extend([leave] * count)
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in list(selector.get_map()):
        os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)
    selector.close()
    loop._selector = _Leaves()  # noqa: SLF001 - there is no other way


def leave_child(error: BaseException | None) -> NoReturn:
    """End a process that a handler forked and let come back into the worker's code: it is no worker."""
    status: object = 0
    if isinstance(error, SystemExit):
        status = error.code
    elif error is not None:
        status = "".join(traceback.format_exception(error))
    if isinstance(status, str):
        sys.stderr.write(status)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status & 0xFF if isinstance(status, int) else int(bool(status)))
