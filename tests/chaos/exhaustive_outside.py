"""Not random but complete, for a job that works outside: a kill and a cancellation at every await, in any of its tasks."""

import asyncio
import json
import os
import signal
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

import ledgerq.execution.process
from db.database import open_database
from ledgerq.database.engine import Database
from ledgerq.database.settings import DatabaseConfig
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.outcome import Outcome, Retry
from ledgerq.execution.retry import Policy
from tests.chaos import checker
from tests.chaos.history import Sent
from tests.chaos.kinds import registry
from tests.chaos.outside_checker import check_outside, look_outside
from tests.chaos.outside_kinds import ChaosOutside, expected_outside, open_client
from tests.chaos.party import Call
from tests.chaos.report import Report
from tests.chaos.servers import PostgreSQL
from tests.support import stepped

MOST = 2_000  # awaits
DATABASE = "outside"
SECONDS = 120.0  # for one job

HitTask = Callable[["asyncio.Task[Outcome]"], object]
Hit = Callable[["Run"], bool]  # one run of a job, which is hit; False if it was over before
_HIT, _OVER, _BROKEN = 0, 1, 2  # exit statuses


@dataclass(slots=True)
class Run:
    """One job, and the await at which it is hit."""

    url: str  # of the database
    job: Sent
    fields: dict[str, Any]
    number: int
    passed: int = 0

    async def to_its_end(self, hit: HitTask | None) -> bool:
        """Deliver the job until it has ended; True if it was hit before."""
        async with (
            asyncio.timeout(SECONDS),
            open_database(DatabaseConfig(url=self.url, pool_size=3)) as database,
            open_client() as client,
        ):
            outcome = await self._hit(self._deliver(database, client), hit) if hit else None
            while outcome is None or isinstance(outcome, Retry):
                outcome = await self._deliver(database, client)
        return self.passed >= self.number

    async def _hit(self, work: Any, hit: HitTask) -> Outcome | None:
        """Run it in a task; all awaits of it and of the tasks that it makes are counted."""
        loop = asyncio.get_running_loop()

        def at_await() -> None:
            self.passed += 1
            if self.passed == self.number:
                hit(task)

        def counted(loop: asyncio.AbstractEventLoop, work: Any, **more: Any) -> Any:
            return asyncio.Task(stepped(work, at_await), loop=loop, **more)

        loop.set_task_factory(counted)
        task: asyncio.Task[Outcome] = loop.create_task(work)
        await asyncio.wait({task})
        loop.set_task_factory(None)
        return None if task.cancelled() else task.result()

    async def _deliver(self, database: Database, client: Any) -> Outcome:
        content = {**self.fields, "_staged": "1"} if self.job.in_database else self.fields
        body = json.dumps({"f": self.job.kind, "k": content, "a": [], "t": None, "et": 1}).encode()
        [outcome] = await ledgerq.execution.process.process(
            [Delivery(self.job.job_id, 1, body)], registry(client), database.sessions, Policy()
        )
        return outcome


def cancelled(run: Run) -> bool:
    """The job's task is cancelled at that await, as a worker does it."""
    return _in_a_process(run, lambda task: task.cancel()) == _HIT


def killed(run: Run) -> bool:
    """The process is killed at that await; another one then goes on with the job."""
    status = _in_a_process(run, lambda _: os.kill(os.getpid(), signal.SIGKILL))
    if status == -signal.SIGKILL:
        _in_a_process(run, None)
    return status != _OVER


def _in_a_process(run: Run, hit: HitTask | None) -> int:
    """Its exit status. It is forked from this one, which has started no thread that the job needs."""
    pid = os.fork()
    if pid == 0:
        status = _BROKEN
        try:
            status = _HIT if asyncio.run(run.to_its_end(hit)) else _OVER
        except Exception:  # noqa: BLE001 - told, and then the process ends
            traceback.print_exc()
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status not in {_HIT, _OVER, -signal.SIGKILL}:
        raise RuntimeError(f"job {run.job.job_id}: its process exited with {status}")
    return status


HITS: dict[str, Hit] = {"cancelled": cancelled, "killed": killed}


def hit_everywhere(
    postgresql: PostgreSQL,
    payload: ChaosOutside,
    calls: Sequence[Call],
    report: Report,
    out: Console,
) -> None:
    """Each job is hit at one of its awaits, and delivered again until it has ended."""
    postgresql.copy_database(DATABASE)
    fields = payload.model_dump(mode="json")
    sent: list[Sent] = []
    for name, hit in HITS.items():
        for number in range(1, MOST):
            job = sent_outside(f"{name}-{number}", payload)
            sent.append(job)
            stage(postgresql, DATABASE, job, fields)
            if not hit(Run(postgresql.url(DATABASE), job, fields, number)):
                break
        report.notes[f"outside: {name} at every await"] = number - 1
        out.print(f"outside, {name} at every await: {number - 1} points", highlight=False)
    violations = violated(postgresql, DATABASE, calls, sent)
    report.violations += [f"outside, hit at an await: {each}" for each in violations]
    out.print(f"outside, hit at every await: {len(violations)} violations", highlight=False)


def stage(postgresql: PostgreSQL, database: str, job: Sent, fields: dict[str, Any]) -> None:
    """By the SQL function, with the producer's own row."""
    own = "INSERT INTO producer_row VALUES ($1)"
    postgresql.fetch(own, job.job_id, database=database)
    call = "SELECT ledgerq.enqueue_job($1, $2::text::jsonb, job_id => $3)"
    postgresql.fetch(call, job.kind, json.dumps(fields), job.job_id, database=database)


def sent_outside(job_id: str, payload: ChaosOutside) -> Sent:
    """A job that was staged, as its producer knows it."""
    return Sent(
        job_id, "sql", payload.kind, payload.effects, poison=False, invoked=0, answer="ok",
        **expected_outside(payload),
    )  # fmt: skip


def violated(
    postgresql: PostgreSQL, database: str, calls: Sequence[Call], jobs: Sequence[Sent]
) -> list[str]:
    """What is wrong in a database that has these jobs only."""
    found = checker.look(postgresql, database)
    verdict = checker.check(jobs, found)
    check_outside(jobs, found, look_outside(postgresql, calls, database), verdict)
    return verdict.violations
