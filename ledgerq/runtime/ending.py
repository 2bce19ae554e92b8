"""The end of a worker's process: in time, whatever its jobs have left running, with a line that names it."""

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
from ledgerq.text import cut_end

log = structlog.stdlib.get_logger("ledgerq.worker")

_MAX_STACK = 4_000  # characters of a stack in the log
_POOL = os.path.join("concurrent", "futures", "thread.py")  # noqa: PTH118 - a part of a file's name


async def in_time(work: Awaitable[object], seconds: float, what: str) -> None:
    """Await it, but not for ever: what has not ended by then is named, and left."""
    try:
        async with asyncio.timeout(seconds):
            await work
    except TimeoutError:
        log.error("shutdown.tasks_abandoned", what=what, seconds=seconds)  # noqa: TRY400 - it is no error of ours


def run_until_done(loop: asyncio.AbstractEventLoop, task: "asyncio.Task[None]") -> None:
    """Run the loop until the task is done, though a job may stop the loop, or come back here in a forked child."""
    pid = os.getpid()
    while True:
        try:
            loop.run_until_complete(task)
        except BaseException as error:
            if os.getpid() != pid:
                leave_child(error)
            if task.done() or not isinstance(error, RuntimeError):
                raise
            log.exception("event_loop.was_stopped")  # by nobody but a job
        else:
            return


class LastResort(threading.Thread):
    """Ends the process if it has not ended so many seconds after it was told to: its loop may stand still.

    `hand_back` is called before that, to hand back the jobs.
    """

    def __init__(self, seconds: float, hand_back: Callable[[], None]) -> None:
        super().__init__(name="ledgerq-last-resort", daemon=True)
        self._seconds, self._hand_back, self._main = seconds, hand_back, threading.get_ident()
        self._told, self._ended = threading.Event(), threading.Event()

    def listen(self, *signals: signal.Signals) -> None:
        """Know of these signals, beside the event loop, which hears of them by a pipe."""
        for number in signals:
            signal.signal(number, lambda *_: self._told.set())
            signal.siginterrupt(number, False)
        self.start()

    def ended(self) -> None:
        """The loop has ended by itself."""
        self._ended.set()

    def run(self) -> None:
        """Wait to be told."""
        self._told.wait()
        if self._ended.wait(self._seconds):
            return
        frame = sys._current_frames().get(self._main)  # noqa: SLF001 - there is no other way
        log.error("shutdown.tasks_abandoned", what="the event loop", stack=_stack(frame))
        self._hand_back()
        leave_at_once(1)


def leave_in(seconds: float) -> None:
    """Let the interpreter end the process, for so long: then what keeps it is named, and left.

    It waits for threads, pools and child processes without a limit, after they were told to end.
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
    """End the process without waiting for anything, as the interpreter would."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def _left_running() -> list[str]:
    frames = sys._current_frames()  # noqa: SLF001 - as above
    threads = [
        f"thread {thread.name} in {_where(frames.get(thread.ident or 0))}"
        for thread in threading.enumerate()
        if thread is not threading.main_thread() and not thread.daemon
        if not _is_idle(frames.get(thread.ident or 0))
    ]
    children = multiprocessing.active_children()
    return threads + [f"process {child.pid} ({child.name})" for child in children]


def _is_idle(frame: FrameType | None) -> bool:
    """True of a thread of a pool that has nothing to do: the interpreter ends it."""
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
