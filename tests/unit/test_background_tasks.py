"""One loop keeps going what runs beside the jobs, whatever it meets."""

import asyncio
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

from ledgerq.runtime.background_tasks import BackgroundTasks, keep_going


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were slept, without sleeping them."""
    slept: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await real(0)

    monkeypatch.setattr("ledgerq.runtime.background_tasks.asyncio.sleep", sleep)
    return slept


def _tell(told: list[Any], **said: Any) -> None:
    told.extend(said.values())


async def go(*answers: float | Exception, **options: Any) -> list[Any]:
    """Have it go on until the answers are used up; what it told."""
    told: list[Any] = []
    left = list(answers)

    async def run_once() -> float:
        if not left:
            raise asyncio.CancelledError
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(asyncio.CancelledError):
        await keep_going(
            run_once,
            OSError,
            failed=partial(_tell, told),
            recovered=partial(_tell, told),
            **options,
        )
    return told


async def test_the_next_part_comes_when_the_last_one_says(pauses: list[float]) -> None:
    """Seconds after it."""
    assert await go(1, 0, 7) == []
    assert pauses == [1, 0, 7]


async def test_what_fails_is_told_once_and_its_end_too(pauses: list[float]) -> None:
    """However often it fails in a row."""
    told = await go(OSError("a"), OSError("b"), 0, OSError("c"), 0)
    assert told == ["OSError: a", 2, "OSError: c", 1]


async def test_a_pause_after_a_failure_is_never_longer_than_the_work_allows(
    pauses: list[float],
) -> None:
    """A lease of a few seconds must be renewed before it is over, whatever the backoff."""
    await go(*[OSError("away")] * 30, longest=0.3)
    assert len(pauses) == 30
    assert max(pauses) <= 0.3


async def test_a_fault_of_ours_is_logged_and_does_not_end_the_loop(pauses: list[float]) -> None:
    """With its traceback."""
    with capture_logs() as logs:
        assert await go(ZeroDivisionError(), 0) == [1]
    assert [each["event"] for each in logs] == ["background_task.failed"]


async def test_a_part_is_done_at_once_when_it_is_woken() -> None:
    """Before its time."""
    wake, parts = asyncio.Event(), 0

    async def run_once() -> float:
        nonlocal parts
        parts += 1
        asyncio.get_running_loop().call_soon(wake.set)
        return 3600

    task = asyncio.create_task(keep_going(run_once, failed=print, wake=wake))
    while parts < 3:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})


async def test_a_task_that_swallows_a_cancellation_is_cancelled_once_more() -> None:
    """Python 3.11's wait_for, inside redis-py, can swallow one."""
    begun, swallowed = asyncio.Event(), False

    async def stubborn() -> None:
        nonlocal swallowed
        begun.set()
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if swallowed:
                    raise
                swallowed = True

    tasks = BackgroundTasks()
    tasks.start(stubborn())
    await begun.wait()
    with capture_logs() as logs:
        await tasks.end(0.3, again_after=0.2)
    assert swallowed
    assert logs == []
