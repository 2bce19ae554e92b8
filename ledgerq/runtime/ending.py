"""Ends a worker's process in time, even if its jobs have left work running; a log line names that work."""

import asyncio
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from types import FrameType

import structlog

from ledgerq.runtime.forks import leave_child
from ledgerq.runtime.lag import JOB
from ledgerq.text import cut_end

log = structlog.stdlib.get_logger("ledgerq.worker")

_MAX_STACK = 4_000  # characters of a stack in the log
_CALLBACK = asyncio.Handle._run.__code__  # noqa: SLF001 - in the traceback of whatever a callback or a task raises
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POOL = os.path.join("concurrent", "futures", "thread.py")  # noqa: PTH118 - a part of a file's name


async def in_time(work: Awaitable[object], seconds: float, what: str) -> None:
    """Await `work`; after `seconds`, cancel it and log `what` as abandoned. Raises the errors of `work`."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            await work
    except TimeoutError:
        if not limit.expired():
            raise
        log.error("shutdown.tasks_abandoned", what=what, seconds=seconds)  # noqa: TRY400 - the stack shows nothing


def run_until_done(loop: asyncio.AbstractEventLoop, task: "asyncio.Task[None]") -> None:
    """Run the loop until the task is done.

    If a job stops the loop, the loop runs again, and so it does after SystemExit or KeyboardInterrupt in a task of a job:
    the job is told at its await of that task. If a job forks and the child returns here, the child ends.
    """
    pid = os.getpid()
    while True:
        try:
            loop.run_until_complete(task)
        except BaseException as error:
            if os.getpid() != pid:
                leave_child(error)
            if task.done() or not _is_a_jobs(error):
                raise
            log.exception("event_loop.was_stopped")
        else:
            return


def _is_a_jobs(error: BaseException) -> bool:
    """True if a job's code has ended the loop, False if something else has, such as a signal that met the process anywhere."""
    if isinstance(error, RuntimeError):
        return True
    ctrl_c_raises = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if isinstance(error, KeyboardInterrupt) and ctrl_c_raises:
        return False
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    handlers = {getattr(signal.getsignal(each), "__code__", None) for each in _SIGNALS}
    if not isinstance(error, SystemExit | KeyboardInterrupt) or handlers & {
        f.f_code for f in frames
    }:
        return False
    callbacks = (frame.f_locals.get("self") for frame in frames if frame.f_code is _CALLBACK)
    contexts = (getattr(each, "_context", None) for each in callbacks)
    return any(each is not None and each.get(JOB) is not None for each in contexts)


class LastResort(threading.Thread):
    """A thread that ends the process if the event loop has not ended `seconds` after a stop signal.

    The loop may be blocked by a job. `hand_back` is called first, to hand the jobs back to the queue.
    """

    def __init__(self, seconds: float, hand_back: Callable[[], None]) -> None:
        super().__init__(name="ledgerq-last-resort", daemon=True)
        self._seconds, self._hand_back, self._main = seconds, hand_back, threading.get_ident()
        self._told, self._ended = threading.Event(), threading.Event()

    def listen(self, *signals: signal.Signals) -> None:
        """Start to wait for these signals. The event loop still receives them, through a pipe."""
        for number in signals:
            signal.signal(number, lambda *_: self._told.set())
            signal.siginterrupt(number, False)
        self.start()

    def ended(self) -> None:
        """Note that the loop has ended by itself: this thread then leaves the process alone."""
        self._ended.set()

    def run(self) -> None:
        """Wait for a signal, then for the loop's end; if that does not come in time, end the process with status 1."""
        self._told.wait()
        if self._ended.wait(self._seconds):
            return
        frame = sys._current_frames().get(self._main)  # noqa: SLF001 - there is no other way
        log.error("shutdown.tasks_abandoned", what="the event loop", stack=_stack(frame))
        self._hand_back()
        leave_at_once(1)


def leave_in(seconds: float) -> None:
    """Give the interpreter `seconds` to end the process; after that, log what keeps it running, and end the process.

    The interpreter alone would wait without limit for threads, pools and child processes.
    """
    threading.Thread(
        target=_leave_after, args=(seconds,), name="ledgerq-leave", daemon=True
    ).start()


def _leave_after(seconds: float) -> None:
    time.sleep(seconds)
    log.error(
        "shutdown.tasks_abandoned", what=", ".join(_left_running()) or "the interpreter's end"
    )
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
    leave_at_once(0)


def leave_at_once(status: int) -> None:
    """Write out logs and output, and end the process with this exit status, without waiting for threads or children."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def _left_running() -> list[str]:
    frames = sys._current_frames()  # noqa: SLF001 - there is no other way
    threads = [
        f"thread {thread.name} in {_where(frames.get(thread.ident or 0))}"
        for thread in threading.enumerate()
        if thread is not threading.main_thread() and not thread.daemon
        if not _is_idle(frames.get(thread.ident or 0))
    ]
    children = multiprocessing.active_children()
    return threads + [f"process {child.pid} ({child.name})" for child in children]


def _is_idle(frame: FrameType | None) -> bool:
    """True if the thread of this frame is an idle thread of a pool: the interpreter can end it."""
    if frame is None:
        return True
    return frame.f_code.co_name == "_worker" and frame.f_code.co_filename.endswith(_POOL)


def _where(frame: FrameType | None) -> str:
    if frame is None:
        return "?"
    code = frame.f_code
    return f"{code.co_qualname} ({code.co_filename}:{frame.f_lineno})"


def _stack(frame: FrameType | None) -> str:
    return cut_end("".join(traceback.format_stack(frame)), _MAX_STACK) if frame else ""
