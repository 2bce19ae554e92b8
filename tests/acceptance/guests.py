"""A worker process whose jobs fork, block and leave threads behind: `python -m tests.acceptance.guests`."""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from db import projects
from db.inputs import NewProject
from ledgerq.job import JobContext, Kind
from ledgerq.wire.payload import Payload
from tests.acceptance.own_worker import run_worker_of
from worker.app import app


class Patient(Payload, kind="patient"):
    """Of a kind that may take an hour; none is ever enqueued."""


class Guest(Payload, kind="guest"):
    """What to do, and for how many seconds. `mark` is a file that tells what happened."""

    what: str
    seconds: float = 0
    mark: str = ""


def forked(child: Any) -> int:
    """The exit status of a forked child that does as told."""
    pid = os.fork()
    if pid == 0:
        child()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


async def terminated_child(guest: Guest) -> Any:
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    process.join(10)
    return process.exitcode


async def child_returns(guest: Guest) -> Any:
    pid = os.fork()
    return "child" if pid == 0 else os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


async def child_exits(guest: Guest) -> Any:
    return forked(lambda: sys.exit(7))


async def child_awaits(guest: Guest) -> Any:
    pid = os.fork()
    if pid == 0:
        await asyncio.sleep(60)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


async def child_runs_a_loop(guest: Guest) -> Any:
    def count() -> None:
        os._exit(asyncio.run(asyncio.sleep(0.01, 5)))

    return forked(count)


async def process_of_its_own(guest: Guest) -> Any:
    process = await asyncio.create_subprocess_exec("sleep", "60")
    process.terminate()
    return await process.wait()


async def child_that_lives_on(guest: Guest) -> Any:
    pid = os.fork()
    if pid == 0:
        time.sleep(guest.seconds)
        os._exit(0)
    Path(guest.mark).write_text(str(pid))
    await asyncio.sleep(60)


async def thread(guest: Guest) -> Any:
    Path(guest.mark).write_text("started")
    await asyncio.to_thread(time.sleep, guest.seconds)


async def block(guest: Guest) -> Any:
    if guest.mark:
        Path(guest.mark).write_text("started")
    time.sleep(guest.seconds)
    return subprocess.DEVNULL


async def blocks_in_a_task(guest: Guest) -> Any:
    async def block_here() -> None:
        time.sleep(guest.seconds)

    async with asyncio.TaskGroup() as group:
        group.create_task(block_here())


async def child_returns_in_a_task(guest: Guest) -> Any:
    status = None

    async def fork() -> None:
        nonlocal status
        pid = os.fork()
        if pid:
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    async with asyncio.TaskGroup() as group:
        group.create_task(fork())
    return status


async def exits() -> None:
    await asyncio.sleep(0)
    sys.exit(7)


async def exits_in_wait_for(guest: Guest) -> Any:
    await asyncio.wait_for(exits(), 5)  # a task of its own until Python 3.12


async def exits_in_a_group(guest: Guest) -> Any:
    async with asyncio.TaskGroup() as group:
        group.create_task(exits())


async def interrupts_in_gather(guest: Guest) -> Any:
    async def interrupt() -> None:
        await asyncio.sleep(0)
        raise KeyboardInterrupt

    await asyncio.gather(interrupt(), asyncio.sleep(0))


_pool: list[ProcessPoolExecutor] = []


async def uses_a_pool(guest: Guest) -> Any:
    if not _pool:
        context = multiprocessing.get_context("fork")
        _pool.append(ProcessPoolExecutor(1, mp_context=context))
    return await asyncio.get_running_loop().run_in_executor(_pool[0], os.getpid)


def deaf() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)


async def deaf_daemon(guest: Guest) -> Any:
    process = multiprocessing.get_context("fork").Process(target=deaf, daemon=True)
    process.start()
    await asyncio.sleep(0.3)
    return process.pid


async def block_once(guest: Guest, attempt: int | None) -> Any:
    if attempt == 1:
        time.sleep(guest.seconds)


async def wait(guest: Guest) -> Any:
    await asyncio.sleep(guest.seconds)


async def handle(context: JobContext, guest: Guest) -> Any:
    new = NewProject(name=f"{guest.what} {context.origin.attempt}")
    await projects.create(context.session, context.origin, new)
    if guest.what == "block_once":
        answer = await block_once(guest, context.origin.attempt)
    else:
        answer = await globals()[guest.what](guest)
    return [context.origin.attempt, answer]


APP = replace(
    app,
    jobs=[Kind(Guest, handle), Kind(Patient, wait, timeout=3600)],
    schedule=[],
    forget_ended_jobs=False,
)


if __name__ == "__main__":
    run_worker_of(APP)
