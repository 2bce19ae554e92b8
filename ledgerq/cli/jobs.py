"""The commands about jobs: `status` counts them, `job` shows one, `cancel` cancels one."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from ledgerq.admin.cancel import CancelAnswer
from ledgerq.admin.cancel import cancel as cancel_job
from ledgerq.admin.connections import open_redis_and_database
from ledgerq.admin.job_status import JobStatus, job_status
from ledgerq.admin.queues import known_queues
from ledgerq.admin.status import Status
from ledgerq.admin.status import status as status_of_all
from ledgerq.cli.find_app import AppName, queues_of_app, tables_of_app
from ledgerq.cli.limits import LIMIT, run_within
from ledgerq.cli.options import (
    NO_REASON,
    Actor,
    AsJson,
    Because,
    OnQueue,
    checked_ids,
    for_the_log,
)
from ledgerq.cli.output import complain, print_attempts, print_fields, print_json, print_rows, say
from ledgerq.config import Config, load_config
from ledgerq.database.engine import Tables
from ledgerq.errors import LedgerqError, UsageError
from ledgerq.store.tables import JobState

JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]

_DAY = 86_400.0
_MAX_RUNNING = 50  # running jobs that are listed for a person


class UnknownJob(LedgerqError):
    """The job is not found. `problem` says why Redis could not be asked, `note` what else Redis has of this id."""

    def __init__(self, job_id: str, problem: str | None, note: str | None) -> None:
        self.job_id = job_id
        super().__init__(
            f"ID: no trace of job {job_id} in the database"
            + (f", and Redis can't be asked: {problem}" if problem else " or on Redis")
            + (f"; {note}" if note else "")
        )


def add_to(root: typer.Typer) -> None:
    """Register the commands."""
    root.command()(status)
    root.command()(job)
    root.command()(cancel)


def status(app: AppName = None, as_json: AsJson = False) -> None:
    """Show how many jobs are queued, held back, running, staged, done, cancelled and dead."""
    found = run_within(LIMIT, status_of_all(load_config(), queues_of_app()))
    if as_json:
        print_json(asdict(found))
    else:
        _show_status(found)
    if found.problem:
        complain(f"ledgerq: {found.problem}")
        raise typer.Exit(1)


def job(job_id: JobId, queue: OnQueue = None, app: AppName = None, as_json: AsJson = False) -> None:
    """Show where a job is, how it ended, what failed on the way, and what it changed."""
    checked_ids([job_id])
    found = run_within(LIMIT, job_status(load_config(), job_id, _queues(queue)))
    if found.state == "unknown":
        raise UnknownJob(job_id, found.problem, found.note)
    if as_json:
        print_json(asdict(found))
    else:
        _show_job(found)


def cancel(
    job_id: JobId,
    because: Because = NO_REASON,
    actor: Actor = None,
    queue: OnQueue = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds to wait for a worker that runs it to roll it back.")
    ] = 30,
    app: AppName = None,
    as_json: AsJson = False,
) -> None:
    """Cancel a job, wherever it is, so that it never runs; exit status 1 if it was done or dead before."""
    checked_ids([job_id])
    if not 0 < timeout <= _DAY:
        raise UsageError("--timeout", "is out of range", f"give more than 0 and at most {_DAY:g}")
    config, said = load_config(), for_the_log(actor, because)
    others = known_queues(config.worker, _queues(queue))
    work = _cancel(config, tables_of_app(), job_id, said, timeout, others)
    answer = run_within(timeout + 2 * LIMIT, work)  # SQLite may wait 30 s longer
    if as_json:
        print_json(asdict(answer))
    else:
        say(_sentence(answer))
    if not answer.redis_reached:
        complain(
            "ledgerq: REDIS_URL: Redis was not told; what it still has of the job does nothing"
        )
    raise typer.Exit(0 if answer.state is JobState.CANCELLED else 1)


async def _cancel(
    config: Config,
    tables: Tables,
    job_id: str,
    said: dict[str, str],
    timeout: float,  # noqa: ASYNC109
    others: list[str],
) -> CancelAnswer:
    async with open_redis_and_database(config, tables) as (redis, sessions):
        return await cancel_job(
            redis, sessions, config.worker.queue, job_id, **said,
            timeout=timeout, keep_result=config.worker.keep_result, others=others,
        )  # fmt: skip


def _queues(named: str | None) -> dict[str, str | None]:
    """The queues of the application's kinds, and the named one."""
    return {**queues_of_app(), "": named}


def _sentence(answer: CancelAnswer) -> str:
    if answer.state is not JobState.CANCELLED:
        return f"job {answer.job_id} is {answer.state} already; nothing has changed"
    if answer.known or not answer.redis_reached:
        return f"job {answer.job_id} is cancelled"
    return f"job {answer.job_id} is unknown; if it is enqueued later, it will not run"


def _show_status(found: Status) -> None:
    ledger = found.ledger
    counts: dict[str, Any] = {
        "staged": ledger.staged,
        "done": ledger.done,
        "cancelled": ledger.cancelled,
        "dead": ledger.dead,
        "dead letters": ledger.letters,
    }
    queues, running = found.queues.values(), [r for q in found.queues.values() for r in q.running]
    if queues:
        counts = {
            "queued": sum(each.queued for each in queues),
            "held back": sum(each.deferred for each in queues),
            "tried before": sum(each.retrying for each in queues),
            "running": len(running),
            **counts,
            "workers": len({worker for each in queues for worker in each.workers}),
        }
    print_rows(("jobs", "count"), counts.items())
    if len(queues) > 1:
        _show_queues(found)
    if ledger.oldest_staged:
        print_fields({"oldest staged": ledger.oldest_staged})
    waiting = [wait for each in queues for wait in each.waits]
    if waiting:
        print_rows(
            ("jobs wait for", "", "seconds ago"),
            [(each.reason, each.text, round(each.seconds)) for each in waiting],
        )
    if running:
        print_rows(
            ("running", "worker", "since", "attempt", ""),
            [
                (r.job_id, r.worker, r.since, r.attempt, "" if r.held else "its worker is gone")
                for r in running[:_MAX_RUNNING]
            ],
        )


def _show_queues(found: Status) -> None:
    staged = found.ledger.staged_by_queue
    print_rows(
        ("queue", "staged", "queued", "held back", "running", "workers"),
        [
            (name, staged.get(name, 0), q.queued, q.deferred, len(q.running), len(q.workers))
            for name, q in found.queues.items()
        ],
    )


def _show_job(found: JobStatus) -> None:
    fields = asdict(found)
    attempts, entries, steps = fields.pop("attempts"), fields.pop("audit"), fields.pop("steps")
    print_fields(fields)
    print_attempts(attempts)
    if steps:
        print_rows(("step", *list(steps[0])[1:]), [each.values() for each in steps])
    if entries:
        print_rows(list(entries[0]), [each.values() for each in entries])
