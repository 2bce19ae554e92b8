"""Takes the worker's signal handlers, event loop and connections away from child processes that a job forks.

A forked child shares all three with the worker. A SIGTERM to the child would reach the worker's loop, through the pipe
that both have. A child that outlives the worker would keep the worker's transactions open at the server. A child that
reads from a connection would take the worker's answers. A process that is started by exec inherits none of them.
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
    """From now on, a process that is forked from this one lets go of `loop` and its connections; this process keeps them."""
    _loops.add(loop)
    _register()


@cache
def _register() -> None:
    os.register_at_fork(
        before=_hold_signals, after_in_parent=_let_signals, after_in_child=_in_child
    )


def _hold_signals() -> None:
    """Block the signals before a fork: a signal to the child waits until the child has reset its handlers."""
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
    """Replaces the loop's selector in a child: a child that runs the loop ends at `select`."""

    def select(self, timeout: float | None = None) -> NoReturn:
        leave_child(None)

    def get_map(self) -> None:
        return None

    def close(self) -> None:
        """Do nothing: this selector has no descriptor to close."""


def _cut_off(loop: Any) -> None:
    """Replace the loop's descriptors by /dev/null, its ready callbacks by `leave_child`, its selector by `_Leaves`."""
    selector = getattr(loop, "_selector", None)
    if selector is None or selector.get_map() is None:
        return
    ready = getattr(loop, "_ready", None)
    if ready is not None:  # the child must not run the worker's next callbacks
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
    """End this process, a child that a handler forked and that returned into the worker's code.

    Its exit status is that of a SystemExit in `error`, 1 for any other error (written to stderr), 0 without an error.
    """
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
