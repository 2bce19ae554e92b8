"""What ends the event loop of a worker, and what does not."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ledgerq.runtime.ending import run_until_done
from ledgerq.runtime.lag import JOB


@contextmanager
def handled(number: signal.Signals, handler: Any) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_an_exit_in_a_task_comes_to_the_code_that_awaits_the_task(
    loop: asyncio.AbstractEventLoop, error: type[BaseException]
) -> None:
    """The loop runs on, and the exit is raised at the await, where the job fails."""
    told = []

    async def fail() -> None:
        raise error

    async def main() -> None:
        JOB.set({"job_id": "job-1"})
        try:
            await asyncio.gather(fail())
        except BaseException as raised:  # noqa: BLE001 - an exit
            told.append(type(raised))
        await asyncio.sleep(0)

    with handled(signal.SIGINT, lambda *_: None):  # as the worker has it
        run_until_done(loop, loop.create_task(main()))
    assert told == [error]


def exits(*_: object) -> None:
    raise SystemExit(5)


@pytest.mark.parametrize(
    ("number", "handler", "error"),
    [
        (signal.SIGINT, signal.default_int_handler, KeyboardInterrupt),
        (signal.SIGTERM, exits, SystemExit),
    ],
)
def test_a_signal_ends_the_loop_of_a_worker_that_leaves_signals_to_python(
    loop: asyncio.AbstractEventLoop,
    number: signal.Signals,
    handler: Callable[..., Any],
    error: type[BaseException],
) -> None:
    """Ctrl-C, or a handler of the service that exits, is raised out of the loop."""

    async def main() -> None:
        threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
        await asyncio.sleep(60)

    task = loop.create_task(main())
    with handled(number, handler), pytest.raises(error):
        run_until_done(loop, task)
    task.cancel()
    loop.run_until_complete(asyncio.wait({task}))


def test_ctrl_c_that_comes_while_a_callback_runs_ends_the_loop(
    loop: asyncio.AbstractEventLoop,
) -> None:
    """Python raises it in whatever code runs then; that may be a job's."""

    async def main() -> None:
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
        await asyncio.sleep(60)

    task = loop.create_task(main())
    with handled(signal.SIGINT, signal.default_int_handler), pytest.raises(KeyboardInterrupt):
        run_until_done(loop, task)
    task.cancel()
    loop.run_until_complete(asyncio.wait({task}))


@pytest.mark.parametrize("by", ["loop", "python"])
def test_a_signal_that_exits_ends_the_worker_wherever_it_meets_the_process(
    loop: asyncio.AbstractEventLoop, by: str
) -> None:
    """In a callback that the loop makes of it, or in the middle of a job."""

    async def main() -> None:
        if by == "loop":
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, exits)
        else:
            JOB.set({"job_id": "job-1"})
            signal.signal(signal.SIGTERM, exits)
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGTERM)
        await asyncio.sleep(60)

    task = loop.create_task(main())
    with handled(signal.SIGTERM, signal.getsignal(signal.SIGTERM)), pytest.raises(SystemExit):
        run_until_done(loop, task)
    loop.remove_signal_handler(signal.SIGTERM)
    task.cancel()
    loop.run_until_complete(asyncio.wait({task}))


def test_an_exit_of_the_awaited_task_itself_is_raised(loop: asyncio.AbstractEventLoop) -> None:
    """For example of a startup hook."""

    async def main() -> None:
        raise SystemExit(4)

    with pytest.raises(SystemExit):
        run_until_done(loop, loop.create_task(main()))
