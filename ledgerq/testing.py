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

A job takes the same steps as in a worker: receipt, handler behind its fence, outbox, commit or rollback, retry or
dead letter. There is no outer transaction: each commit is a real one.
"""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeVar, get_args

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
from ledgerq.store.step_records import OF_A_STEP
from ledgerq.store.tables import AuditLog, JobState, OutboxMessage
from ledgerq.text import one_line
from ledgerq.wire.envelope import Envelope, encode
from ledgerq.wire.payload import Payload, R, answer_of
from ledgerq.wire.request import Request

T = TypeVar("T")
Moment = Literal["before commit", "after commit"]

__all__ = ["JobNotCompleted", "JobTester", "WorkerCrashed"]


class JobNotCompleted(LedgerqError, AssertionError):
    """A test ran a job that did not complete. `outcome` says how it ended; the cause is what its handler raised."""

    def __init__(self, job_id: str, kind: str, outcome: Outcome) -> None:
        self.job_id, self.outcome = job_id, outcome
        super().__init__(f"job {job_id}: {kind} {_told(outcome)}")


class WorkerCrashed(Exception):
    """Simulates the death of a worker's process; see `JobTester.crash`."""


class JobTester:
    """Runs the jobs of an application on a database.

    Args:
        app: the application.
        url: the URL of the database. If its tables don't exist, call `create_tables` first.
        actor: who asks for the jobs; written to the audit log.

    Set `resources` to give the handlers something else than what `App(resources=)` yields. If `resources` is None, that
    context manager is entered for each job that runs.
    """

    resources: Any = None

    def __init__(self, app: App, url: str, *, actor: str = "test") -> None:
        self.app, self.actor = app, actor
        # without a pool, since a pooled connection belongs to the event loop of the test that opened it
        self.database: Database = build_database(
            load(DatabaseConfig, url=url), app.tables, pooled=False
        )
        self._ahead = timedelta(0)
        self._delivered: dict[str, Delivery] = {}

    async def create_tables(self) -> None:
        """Make the tables of the application and of ledgerq that are missing."""
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
        """Run one job and return its answer. If a job of this id is done already, return the answer of that run.

        Raises:
            JobNotCompleted: the job is to be retried, is buried or was cancelled; the cause is what the handler raised.
            UnexpectedResult: the answer is not of the type that the payload names.
        """
        outcome = await self.outcome(payload, job_id=job_id, trace_id=trace_id)
        last = next(reversed(self._delivered))
        match outcome:
            case Completed(result) | Duplicate(JobState.DONE, result):
                answer: R = answer_of(last, type(payload), result)
                return answer
            case _:
                error = outcome.error if isinstance(outcome, Retry | Buried) else None
                raise JobNotCompleted(last, payload.kind, outcome) from error

    async def outcome(
        self, payload: Payload[Any], *, job_id: str | None = None, trace_id: str | None = None
    ) -> Outcome:
        """Run one job and return how it ended: `Completed`, `Duplicate`, `Retry` or `Buried`, which holds its error."""
        request = Request(payload, job_id, actor=self.actor, trace_id=trace_id)
        return await self._deliver(request.checked_id(), request.envelope)

    async def deliver_again(self, job_id: str) -> Outcome:
        """Deliver a job of this test once more, with the same bytes, as Redis may do. A done job is a `Duplicate`.

        Raises:
            LookupError: this tester has not delivered a job of this id.
        """
        again = self._delivered.get(job_id)
        if again is None:
            raise LookupError(
                f"job_id: this tester has delivered no job {job_id!r}; run it first, by run(…, job_id=)"
            )
        return await self._process(replace(again, attempt=again.attempt + 1), self._sessions())

    async def crash(self, payload: Payload[Any], *, job_id: str, moment: Moment) -> None:
        """Run a job in a worker that dies just before or just after the commit.

        If the worker dies before the commit, everything is rolled back, and the next delivery does the work. If it dies
        after the commit, the next delivery is a `Duplicate`.

        Raises:
            JobNotCompleted: the job failed, and is to be retried; the cause is what the handler raised.
            ValueError: `moment` is neither of the two.
        """
        if moment not in get_args(Moment):
            raise ValueError(
                f"moment: there is no {moment!r}; say 'before commit' or 'after commit'"
            )
        envelope = Request(payload, job_id, actor=self.actor).envelope
        outcome = await self._deliver(job_id, envelope, sessions=self._sessions(moment))
        if isinstance(outcome, Retry | Buried) and not isinstance(outcome.error, WorkerCrashed):
            raise JobNotCompleted(job_id, payload.kind, outcome) from outcome.error

    async def staged(self) -> list[Payload[Any]]:
        """The payloads of the jobs that are staged and have not ended, in the order staged.

        Raises:
            UnknownKind: a job is of a kind that the application does not have.
        """
        registry = self.app.registry()
        return [registry.resolve(_staged(each)).payload for each in await self.rows(OutboxMessage)]

    async def run_staged(self) -> list[Any]:
        """Run all staged jobs that are due, and those that they stage, until none is left. Returns their answers, as `run`.

        Raises:
            JobNotCompleted: a job did not complete; the jobs after it are not run.
            UnexpectedResult: as for `run`.
        """
        answers = []
        while due := await self._due():
            for message in due:
                delivery = _staged(message)
                outcome = await self._process(delivery, self._sessions())
                if not isinstance(outcome, Completed | Duplicate):
                    raise JobNotCompleted(message.job_id, message.kind, outcome) from outcome.error
                payload = self.app.registry().resolve(delivery).kind.payload
                answers.append(answer_of(message.job_id, payload, outcome.result))
        return answers

    def advance(self, by: timedelta) -> None:
        """Put the tester's clock ahead: `context.now`, and which staged jobs are due. The database's clock stays."""
        self._ahead += by

    async def rows(self, table: type[T]) -> Sequence[T]:
        """All rows of a mapped class, ordered by primary key."""
        async with self.database.sessions() as session:
            keys = table.__table__.primary_key  # type: ignore[attr-defined]
            return (await session.scalars(select(table).order_by(*keys))).all()

    async def entries(self, job_id: str | None = None) -> Sequence[AuditLog]:
        """The audit entries of a job, oldest first; None: all entries."""
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
        handle: Callable[..., Awaitable[Any]] = kind.handle

        @functools.wraps(handle)
        async def later(context: JobContext[Any], *given: Any) -> Any:
            return await handle(replace(context, now=context.now + self._ahead), *given)

        return replace(kind, handle=later)

    def _sessions(self, moment: Moment | None = None) -> Sessions:
        if moment is None:
            return self.database.sessions

        class Crashing(LedgerqSession):
            """Raises `WorkerCrashed` at the commit: before it or after it."""

            async def commit(self) -> None:
                if self.info.get(OF_A_STEP):  # the worker dies later: at the job's own commit
                    return await super().commit()
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
