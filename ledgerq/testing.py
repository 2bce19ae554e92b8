"""Runs jobs in tests: in this process, on a real database, without Redis and without a worker.

With pytest there is nothing to set up: the fixture `job_tester` is a `JobTester` on a fresh database.

```python
async def test_an_order_is_closed(job_tester: JobTester) -> None:
    async with job_tester.transaction() as session:
        session.add(Order(id=ORDER, status="open"))
    assert await job_tester.run(CloseOrder(order_id=ORDER)) == 1
    [invoice] = await job_tester.staged()
    assert invoice == SendInvoice(order_id=ORDER)
```

A job takes the way that it takes in a worker: receipt, handler behind its fence, outbox, commit or rollback, retry or
dead letter. Nothing is hidden in an outer transaction.
"""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeVar

from sqlalchemy import select
from sqlalchemy.ext.asyncio import async_sessionmaker

from ledgerq.app import App
from ledgerq.audit import Origin, acting_as
from ledgerq.columns import utc_now
from ledgerq.database.engine import Database, Sessions, build_database
from ledgerq.database.session import LedgerqSession
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.transaction import transaction
from ledgerq.errors import LedgerqError
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.interventions import staged_envelope
from ledgerq.execution.outcome import Buried, Completed, Duplicate, Outcome, Retry
from ledgerq.execution.process import process
from ledgerq.execution.registry import Registry
from ledgerq.execution.retry import Policy
from ledgerq.job import JobContext, Kind
from ledgerq.settings import load
from ledgerq.store.schema import create_tables
from ledgerq.store.tables import AuditLog, JobState, OutboxMessage
from ledgerq.text import one_line
from ledgerq.wire.envelope import Envelope, encode
from ledgerq.wire.payload import Payload, R, answer_of
from ledgerq.wire.request import Request

T = TypeVar("T")
Moment = Literal["before commit", "after commit"]

__all__ = ["JobNotCompleted", "JobTester", "WorkerCrashed"]


class JobNotCompleted(LedgerqError, AssertionError):
    """A job that a test ran was not done. `outcome` says what became of it; the cause is what its handler raised."""

    def __init__(self, job_id: str, kind: str, outcome: Outcome) -> None:
        self.job_id, self.outcome = job_id, outcome
        super().__init__(f"job {job_id}: {kind} {_told(outcome)}")


class WorkerCrashed(Exception):
    """Stands for the end of a worker's process: see `JobTester.crash`."""


class JobTester:
    """Runs the jobs of an application on a database.

    Args:
        app: the application.
        url: of the database, whose tables are there already, or are made by `create_tables`.
        actor: who asks for the jobs, for the audit log.

    `resources` is what handlers are given instead of what `App(resources=)` yields, if it is set; else that context manager is
    entered for each call that runs jobs.
    """

    resources: Any = None

    def __init__(self, app: App, url: str, *, actor: str = "test") -> None:
        self.app, self.actor = app, actor
        # without a pool, so that nothing stays open: tests need not care for the event loop
        self.database: Database = build_database(
            load(DatabaseConfig, url=url), app.tables, pooled=False
        )
        self._ahead = timedelta(0)
        self._delivered: dict[str, Delivery] = {}

    async def create_tables(self) -> None:
        """Make the tables of the application and of ledgerq, where there are none."""
        await create_tables(self.database)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[LedgerqSession]:
        """A transaction of the test's own, to arrange rows, in the name of `actor`; it commits when the block ends."""
        async with (
            transaction(self.database.sessions) as session,
            acting_as(session, Origin(self.actor)),
        ):
            yield session

    async def run(
        self, payload: Payload[R], *, job_id: str | None = None, trace_id: str | None = None
    ) -> R:
        """Run one job to its end; what it answers. A job of an id that has ended answers as it did then.

        Raises:
            JobNotCompleted: it is to be tried again, or buried; the cause is what the handler raised.
        """
        outcome = await self.outcome(payload, job_id=job_id, trace_id=trace_id)
        match outcome:
            case Completed(result) | Duplicate(JobState.DONE, result):
                answer: R = answer_of(type(payload), result)
                return answer
            case _:
                last = next(reversed(self._delivered))
                error = outcome.error if isinstance(outcome, Retry | Buried) else None
                raise JobNotCompleted(last, payload.kind, outcome) from error

    async def outcome(
        self, payload: Payload[Any], *, job_id: str | None = None, trace_id: str | None = None
    ) -> Outcome:
        """Run one job; `Completed`, `Duplicate`, `Retry` or `Buried` says what became of it. Raises nothing of the job's."""
        request = Request(payload, job_id, actor=self.actor, trace_id=trace_id)
        return await self._deliver(request.checked_id(), request.envelope)

    async def deliver_again(self, job_id: str) -> Outcome:
        """Deliver a job once more, with the same bytes, as Redis may. Of a job that was done it is a `Duplicate`."""
        again = self._delivered[job_id]
        return await self._process(replace(again, attempt=again.attempt + 1), self._sessions())

    async def crash(self, payload: Payload[Any], *, job_id: str, moment: Moment) -> None:
        """Run a job in a worker that dies at that moment. The next delivery finds what such a worker leaves.

        Before the commit all is rolled back, so the next delivery does the work. After it, the next one is a `Duplicate`.
        """
        envelope = Request(payload, job_id, actor=self.actor).envelope
        await self._deliver(job_id, envelope, sessions=self._sessions(moment))

    async def staged(self) -> list[Payload[Any]]:
        """What is staged and has not ended, in the order staged.

        Raises:
            UnknownKind: a kind is none of the application's.
        """
        registry = self.app.registry()
        return [registry.resolve(_staged(each)).payload for each in await self.rows(OutboxMessage)]

    async def run_staged(self) -> list[Any]:
        """Run all jobs that are staged and due, and what they stage, until none is left; their answers.

        Raises:
            JobNotCompleted: the first one that was not done.
        """
        answers = []
        while due := await self._due():
            for message in due:
                delivery = _staged(message)
                outcome = await self._process(delivery, self._sessions())
                if not isinstance(outcome, Completed | Duplicate):
                    raise JobNotCompleted(message.job_id, message.kind, outcome) from outcome.error
                answers.append(outcome.result)
        return answers

    def advance(self, by: timedelta) -> None:
        """Let time pass: `context.now`, and which staged jobs are due. The clock of the database stays as it is."""
        self._ahead += by

    async def rows(self, table: type[T]) -> Sequence[T]:
        """All rows of a mapped class, in the order of their keys."""
        async with self.database.sessions() as session:
            keys = table.__table__.primary_key  # type: ignore[attr-defined]
            return (await session.scalars(select(table).order_by(*keys))).all()

    async def entries(self, job_id: str | None = None) -> Sequence[AuditLog]:
        """The audit entries of a job, or all there are, oldest first."""
        found = await self.rows(AuditLog)
        return [each for each in found if job_id in {None, each.job_id}]

    async def _due(self) -> Sequence[OutboxMessage]:
        async with self.database.sessions() as session:
            now = await session.scalar(select(utc_now()))
        assert isinstance(now, datetime | str)  # noqa: S101 - the database has a clock
        moment = datetime.fromisoformat(now) if isinstance(now, str) else now
        until = moment.replace(tzinfo=moment.tzinfo or UTC) + self._ahead
        staged = await self.rows(OutboxMessage)
        return [each for each in staged if each.next_dispatch_at <= until]

    async def _deliver(
        self, job_id: str, envelope: Envelope, *, sessions: Sessions | None = None
    ) -> Outcome:
        before = self._delivered.get(job_id)
        delivery = Delivery(job_id, before.attempt + 1 if before else 1, encode(envelope))
        return await self._process(delivery, sessions or self._sessions())

    async def _process(self, delivery: Delivery, sessions: Sessions) -> Outcome:
        self._delivered.pop(delivery.job_id, None)
        self._delivered[delivery.job_id] = delivery
        async with self._resources() as resources:
            kinds = [self._by_our_clock(kind) for kind in self.app.jobs]
            [outcome] = await process([delivery], Registry(kinds, resources), sessions, Policy())
        return outcome

    @asynccontextmanager
    async def _resources(self) -> AsyncIterator[Any]:
        if self.resources is not None or self.app.resources is None:
            yield self.resources
        else:
            async with self.app.resources() as opened:
                yield opened

    def _by_our_clock(self, kind: Kind[Any, Any]) -> Kind[Any, Any]:
        handle: Callable[[JobContext[Any], Any], Awaitable[Any]] = kind.handle

        @functools.wraps(handle)
        async def later(context: JobContext[Any], payload: Any) -> Any:
            return await handle(replace(context, now=context.now + self._ahead), payload)

        return replace(kind, handle=later)

    def _sessions(self, moment: Moment | None = None) -> Sessions:
        if moment is None:
            return self.database.sessions

        class Crashing(LedgerqSession):
            """Its worker dies at the moment."""

            async def commit(self) -> None:
                if moment == "after commit":
                    await super().commit()
                raise WorkerCrashed(moment)

        options = {**self.database.sessions.kw}
        bind = options.pop("bind")
        return async_sessionmaker(bind, class_=Crashing, **options)


def _staged(message: OutboxMessage) -> Delivery:
    envelope = replace(staged_envelope(message), staged=True)
    return Delivery(message.job_id, 1, encode(envelope))


def _told(outcome: Outcome) -> str:
    match outcome:
        case Retry(delay, error):
            return f"failed, and is to be tried again in {delay:.1f} s: {one_line(error)}"
        case Buried(reason, error):
            return f"was buried ({reason}): {one_line(error)}"
        case Duplicate(state):
            return f"had ended before: {state}"
        case Completed():
            return "was done"
