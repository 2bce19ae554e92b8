"""A worker as a stranger's first one: plain handlers, written as the peers' are, on the peers' models of the same tables.

`BENCH_HANDLER=shared` lets the kind `plain` share commits.
"""

import asyncio
import os

from sqlmodel import SQLModel

from bench.kinds import Call, Noop, Plain, Wait
from bench.peers import calls, common
from bench.peers.tables import Task, shown
from ledgerq.app import App
from ledgerq.audit import Change
from ledgerq.config import load_config
from ledgerq.job import JobContext, Kind, job
from ledgerq.logs import configure_logging
from ledgerq.outside import Outside
from ledgerq.worker.build import build_worker, run_to_the_end

WAIT = float(os.environ.get("BENCH_WAIT", "1"))  # seconds for which a job of the kind `wait` waits


async def nothing(context: JobContext, noop: Noop) -> None:
    common.tick()


@job(shares_commit=os.environ.get("BENCH_HANDLER") == "shared")
async def add_task(context: JobContext, plain: Plain) -> int:
    task = Task(title=plain.title, project_id=1)
    context.session.add(task)
    await context.session.flush()
    await context.record(Change("task", task.id or 0, "create", {}, shown(task)))
    return task.id or 0


async def ask_service(outside: Outside, call: Call) -> str:
    return await outside.step("call", calls.call)


@job(outside=ask_service)
async def add_row(context: JobContext, call: Call, answer: str) -> None:
    context.session.add(Task(title=call.title, project_id=1))


async def sleep(outside: Outside, wait: Wait) -> int:
    return await outside.step("wait", asyncio.sleep, WAIT, wait.number)


@job(outside=sleep)
async def add_number(context: JobContext, wait: Wait, number: int) -> None:
    context.session.add(Task(title=str(number), project_id=1))


app = App(jobs=[Kind(Noop, nothing), add_task, add_row, add_number], metadata=[SQLModel.metadata])


def main() -> None:
    """Run one worker until SIGTERM."""
    config = load_config()
    configure_logging(config.worker.log_format, config.worker.log_level)
    run_to_the_end(build_worker(app, config))


if __name__ == "__main__":
    main()
