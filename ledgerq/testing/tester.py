"""Runs the jobs of an application on a database, as a worker would."""

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, overload

from sqlalchemy import select

from ledgerq.app import App
from ledgerq.audit import Origin, acting_as
from ledgerq.columns import utc_now
from ledgerq.database.engine import Database, build_database
from ledgerq.database.session import LedgerqSession
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.transaction import transaction
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.interventions import staged_envelope
from ledgerq.execution.outcome import Completed, Duplicate, Outcome
from ledgerq.execution.process import process
from ledgerq.execution.registry import Registry
from ledgerq.execution.retry import Policy
from ledgerq.settings import load
from ledgerq.store.schema import create_tables
from ledgerq.store.step_records import StepRecords
from ledgerq.store.tables import AuditLog, JobState, JobStep, OutboxMessage, StepState
from ledgerq.testing.failure import JobNotCompleted, error_of
from ledgerq.testing.worker import Moment, OfJob, OfStep, OutsideCall, Worker
from ledgerq.wire.envelope import Envelope, encode
from ledgerq.wire.payload import Payload, R, answer_of
from ledgerq.wire.request import Request

T = TypeVar("T")


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
        self._calls = defaultdict[str, list[OutsideCall]](list)  # by the job's id

    async def create_tables(self) -> None:
        """Make the tables of the application and of ledgerq that are missing."""
        await create_tables(self.database)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[LedgerqSession]:
        """A transaction of the test's own, to arrange rows. The audit log names the tester's `actor`. It commits, unless the block raises."""
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
                raise JobNotCompleted(last, payload.kind, outcome) from error_of(outcome)

    async def outcome(
        self, payload: Payload[Any], *, job_id: str | None = None, trace_id: str | None = None
    ) -> Outcome:
        """Run one job and return how it ended: `Completed`, `Duplicate`, `Dropped`, or `Retry` and `Buried` with their `error`."""
        request = Request(payload, job_id, actor=self.actor, trace_id=trace_id)
        return await self._deliver(request.checked_id(), request.envelope)

    async def deliver_again(self, job_id: str) -> Outcome:
        """Deliver a job of this test once more, with the same bytes, as Redis may do. A done job is a `Duplicate`.

        Raises:
            LookupError: this tester has not delivered a job of this id.
        """
        again = self._last(job_id)
        return await self._process(replace(again, attempt=again.attempt + 1))

    @overload
    async def crash(self, payload: Payload[Any], *, job_id: str, moment: OfJob) -> None: ...

    @overload
    async def crash(
        self, payload: Payload[Any], *, job_id: str, moment: OfStep, step: str
    ) -> None: ...

    async def crash(
        self, payload: Payload[Any], *, job_id: str, moment: Moment, step: str | None = None
    ) -> None:
        """Run a job in a worker that dies at a moment. The next delivery goes on with what the worker has left.

        ```python
        await job_tester.crash(send, job_id="letter:7", moment="before record", step="address")
        await job_tester.deliver_again("letter:7")  # calls again, with the same idempotency key
        ```

        Args:
            payload: of the job.
            job_id: of the job; if it was delivered before, this is its next attempt.
            moment: `"before commit"`: all that the job's transaction wrote is rolled back. `"after commit"`: all of it
                stands. `"before record"`: the step's call was answered, and nothing is recorded; the rows of an
                `outside.transaction` or of a page (`outside.advance`) are in the transaction of their record, and are rolled
                back with it. `"after record"`: the record is committed, and nothing after it has begun.
            step: the name of the step or cursor whose record is meant, for the two moments of a record; of a cursor, the
                first page that this delivery does.

        Raises:
            JobNotCompleted: the job failed before that moment, or had ended; the cause is what it raised.
            LookupError: the job was done, and this step was not recorded in this run.
            ValueError: there is no such moment, or `step` does not go with it.
        """
        worker = Worker(self._calls[job_id], moment, step)
        envelope = Request(payload, job_id, actor=self.actor).envelope
        outcome = await worker.live(self._deliver(job_id, envelope, worker))
        match outcome:
            case None:
                return
            case Completed():
                raise LookupError(f"step: {payload.kind} {worker.missed}")
            case _:
                raise JobNotCompleted(job_id, payload.kind, outcome) from error_of(outcome)

    async def calls(self, job_id: str) -> list[OutsideCall]:
        """The calls that a job made by `outside.step` and `outside.call` in this tester, over all attempts, in their order.

        ```python
        first, second = await job_tester.calls("letter:7")
        assert (first.recorded, second.recorded) == (False, True)
        assert first.args == second.args == ("Ada",)
        ```

        Raises:
            LookupError: this tester has delivered no job of this id.
        """
        self._last(job_id)
        recorded = {
            (each.name, each.attempt)
            for each in await self.rows(JobStep)
            if each.job_id == job_id and each.state is StepState.DONE
        }
        return [
            replace(each, recorded=(each.step, each.attempt) in recorded)
            for each in self._calls[job_id]
        ]

    def key(self, step: str, *, job_id: str) -> str:
        """The idempotency key of a step: what `outside.key(step)` is in that job.

        ```python
        [call] = await job_tester.calls("charge:7")
        assert call.kwargs["idempotency_key"] == job_tester.key("charge", job_id="charge:7")
        ```

        Raises:
            LookupError: this tester has delivered no job of this id.
        """
        payload_hash = self._last(job_id).envelope.payload_hash
        origin = Origin(self.actor, job_id=job_id)
        return StepRecords(self.database.sessions, origin, payload_hash, {}).key(step)

    async def staged(self) -> list[Payload[Any]]:
        """The payloads of the jobs that are staged and have not ended, in the order staged.

        Raises:
            UnknownKind: a job is of a kind that the application does not have.
        """
        registry = self.app.registry()
        return [registry.resolve(_staged(each)).payload for each in await self.rows(OutboxMessage)]

    async def run_staged(self) -> list[Any]:
        """Run all staged jobs that are due, and due jobs that these stage, until none is left. Returns the answers in order.

        Raises:
            JobNotCompleted: a job did not complete; the jobs after it are not run.
            UnexpectedResult: an answer is not of the type that the job's payload names.
        """
        answers = []
        while due := await self._due():
            for message in due:
                delivery = _staged(message)
                outcome = await self._process(delivery)
                match outcome:
                    case Completed(result) | Duplicate(JobState.DONE, result):
                        payload = self.app.registry().resolve(delivery).kind.payload
                        answers.append(answer_of(message.job_id, payload, result))
                    case _:
                        error = error_of(outcome)
                        raise JobNotCompleted(message.job_id, message.kind, outcome) from error
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

    def _last(self, job_id: str) -> Delivery:
        if job_id not in self._delivered:
            raise LookupError(
                f"job_id: this tester has delivered no job {job_id!r}; run it first, by run(…, job_id=)"
            )
        return self._delivered[job_id]

    async def _deliver(
        self, job_id: str, envelope: Envelope, worker: Worker | None = None
    ) -> Outcome:
        before = self._delivered.get(job_id)
        delivery = Delivery(job_id, before.attempt + 1 if before else 1, encode(envelope))
        return await self._process(delivery, worker)

    async def _process(self, delivery: Delivery, worker: Worker | None = None) -> Outcome:
        self._delivered.pop(delivery.job_id, None)
        self._delivered[delivery.job_id] = delivery
        worker = worker or Worker(self._calls[delivery.job_id])
        worker.ahead = self._ahead
        sessions = worker.sessions(self.database.sessions)
        async with self._resources() as resources:
            kinds = [worker.watching(kind) for kind in self.app.jobs]
            [outcome] = await process([delivery], Registry(kinds, resources), sessions, Policy())
        return outcome

    @asynccontextmanager
    async def _resources(self) -> AsyncIterator[Any]:
        if self.resources is not None or self.app.resources is None:
            yield self.resources
        else:
            async with self.app.resources() as opened:
                yield opened


def _staged(message: OutboxMessage) -> Delivery:
    envelope = replace(staged_envelope(message), staged=True)
    return Delivery(message.job_id, 1, encode(envelope))
