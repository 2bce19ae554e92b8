"""Runs the jobs of an application on a database, as a worker would."""

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, overload

from sqlalchemy import select

from ledgerq.app import App
from ledgerq.audit import Origin, acting_as
from ledgerq.columns import utc_now
from ledgerq.config import WorkerConfig
from ledgerq.database.engine import Database, build_database
from ledgerq.database.session import LedgerqSession
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.transaction import transaction
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.outcome import Completed, Outcome
from ledgerq.execution.process import process
from ledgerq.execution.registry import Registry
from ledgerq.settings import load
from ledgerq.store.schema import create_tables
from ledgerq.store.step_records import StepRecords
from ledgerq.store.tables import AuditLog, JobStep, OutboxMessage, StepState
from ledgerq.testing.deliveries import Deliveries, NoJitter
from ledgerq.testing.failure import JobNotCompleted, error_of, result_of
from ledgerq.testing.outside_calls import OutsideCall, marked
from ledgerq.testing.staged import body_of, due, groups
from ledgerq.testing.worker import Moment, OfJob, OfStep, Worker
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
    context manager is entered for each job that runs, and once for jobs that share a transaction.

    The settings that limit jobs (`LEDGERQ_MAX_ATTEMPTS`, …) hold as in a worker. They are read at each delivery.
    """

    resources: Any = None

    def __init__(self, app: App, url: str, *, actor: str = "test") -> None:
        self.app, self.actor = app, actor
        # without a pool, since a pooled connection belongs to the event loop of the test that opened it
        self.database: Database = build_database(
            load(DatabaseConfig, url=url), app.tables, pooled=False
        )
        self._ahead = timedelta(0)
        self._deliveries = Deliveries()
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
        request = Request(payload, job_id, actor=self.actor, trace_id=trace_id)
        job_id = request.checked_id()
        outcome = await self._deliver(job_id, request.envelope)
        answer: R = answer_of(job_id, type(payload), result_of(job_id, payload.kind, outcome))
        return answer

    async def outcome(
        self, payload: Payload[Any], *, job_id: str | None = None, trace_id: str | None = None
    ) -> Outcome:
        """Run one job and return how it ended: `Completed`, `Duplicate`, `Dropped`, or `Retry` and `Buried` with their `error`.

        If a job of this id was delivered before and has not ended, this is its next delivery, also during a pause. The
        delivery before has spent an attempt only if it would have in a worker: `Snooze` and a crash spend none.
        """
        request = Request(payload, job_id, actor=self.actor, trace_id=trace_id)
        return await self._deliver(request.checked_id(), request.envelope)

    async def deliver_again(self, job_id: str) -> Outcome:
        """Deliver a job of this test once more, with the same bytes, as Redis may do. A done job is a `Duplicate`.

        Raises:
            LookupError: this tester has not delivered a job of this id.
        """
        body = self._deliveries.last(job_id).body
        [outcome] = await self._process([self._deliveries.next(job_id, body)])
        return outcome

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

        A crash spends no attempt. After three, or six if the kind works outside, the next delivery buries the job
        (`worker_lost`). `run_staged` leaves a crashed job alone until the worker's lease, `LEDGERQ_LEASE`, runs out.

        ```python
        await job_tester.crash(send, job_id="letter:7", moment="before record", step="address")
        await job_tester.deliver_again("letter:7")  # calls again, with the same idempotency key
        ```

        Args:
            payload: of the job.
            job_id: of the job; if it was delivered before, this is its next delivery.
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
                self._deliveries.crashed(job_id, self._now(), self._settings().lease)
            case Completed():
                raise LookupError(f"step: {payload.kind} {worker.missed}")
            case _:
                raise JobNotCompleted(job_id, payload.kind, outcome) from error_of(outcome)

    async def calls(self, job_id: str) -> list[OutsideCall]:
        """The calls that a job made by `outside.step` and `outside.call` in this tester, over all deliveries, in their order.

        ```python
        first, second = await job_tester.calls("letter:7")
        assert (first.recorded, second.recorded) == (False, True)
        assert first.args == second.args == ("Ada",)
        ```

        Raises:
            LookupError: this tester has delivered no job of this id.
        """
        self._deliveries.last(job_id)
        recorded = {
            each.name: each.attempt
            for each in await self.rows(JobStep)
            if each.job_id == job_id and each.state is StepState.DONE
        }
        return marked(self._calls[job_id], recorded)

    def key(self, step: str, *, job_id: str) -> str:
        """The idempotency key of a step: what `outside.key(step)` is in that job.

        ```python
        [call] = await job_tester.calls("charge:7")
        assert call.kwargs["idempotency_key"] == job_tester.key("charge", job_id="charge:7")
        ```

        Raises:
            LookupError: this tester has delivered no job of this id.
        """
        payload_hash = self._deliveries.last(job_id).envelope.payload_hash
        origin = Origin(self.actor, job_id=job_id)
        return StepRecords(self.database.sessions, origin, payload_hash, {}).key(step)

    async def staged(self) -> list[Payload[Any]]:
        """The payloads of the jobs that are staged and have not ended, in the order staged.

        Raises:
            UnknownKind: a job is of a kind that the application does not have.
        """
        registry = self.app.registry()
        return [
            registry.resolve(Delivery(each.job_id, 1, body_of(each))).payload
            for each in await self.rows(OutboxMessage)
        ]

    async def run_staged(self) -> list[Any]:
        """Run all staged jobs that are due, and due jobs that these stage, until none is left. Returns the answers in order.

        As in a worker, a job waits for older ones of its ordering key, and for the end of its pause after a failure;
        `advance` lets a pause pass. First deliveries of a kind that shares commits share a transaction.

        Raises:
            JobNotCompleted: a job did not complete; the jobs after it are not run, except those in its transaction.
            UnexpectedResult: an answer is not of the type that the job's payload names.
        """
        answers = []
        while waiting := await self._due():
            answers += await self._run_together(waiting)
        return answers

    def advance(self, by: timedelta) -> None:
        """Put the tester's clock ahead: `context.now`, which staged jobs are due, and pauses. The database's clock stays."""
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
        staged, now = await self.rows(OutboxMessage), self._now()
        return [each for each in due(staged, until) if self._deliveries.is_due(each.job_id, now)]

    async def _run_together(self, messages: Sequence[OutboxMessage]) -> list[Any]:
        """Run staged jobs, in groups as a worker would; returns their answers in the order of the messages."""
        registry, answers = self.app.registry(), {}
        kinds = {each.job_id: each.kind for each in messages}
        deliveries = [self._deliveries.next(each.job_id, body_of(each)) for each in messages]
        for group in groups(deliveries, registry, self._settings().batch):
            for each, outcome in zip(group, await self._process(group), strict=True):
                result = result_of(each.job_id, kinds[each.job_id], outcome)
                payload = registry.kind(kinds[each.job_id]).payload
                answers[each.job_id] = answer_of(each.job_id, payload, result)
        return [answers[each.job_id] for each in messages]

    async def _deliver(
        self, job_id: str, envelope: Envelope, worker: Worker | None = None
    ) -> Outcome:
        [outcome] = await self._process([self._deliveries.next(job_id, encode(envelope))], worker)
        return outcome

    async def _process(
        self, deliveries: Sequence[Delivery], worker: Worker | None = None
    ) -> Sequence[Outcome]:
        worker = worker or Worker(self._calls[deliveries[0].job_id])  # no more than one has calls
        worker.ahead = self._ahead
        for each in deliveries:
            self._deliveries.began(each)
        sessions = worker.sessions(self.database.sessions)
        policy = NoJitter.of(self._settings().policy)
        async with self._resources() as resources:
            kinds = [worker.watching(kind) for kind in self.app.jobs]
            outcomes = await process(deliveries, Registry(kinds, resources), sessions, policy)
        if not worker.is_dead:
            for delivery, outcome in zip(deliveries, outcomes, strict=True):
                self._deliveries.ended(delivery, outcome, self._now())
        return outcomes

    def _now(self) -> datetime:
        return datetime.now(UTC) + self._ahead

    def _settings(self) -> WorkerConfig:
        return load(WorkerConfig, redis_url="redis://unused")

    @asynccontextmanager
    async def _resources(self) -> AsyncIterator[Any]:
        if self.resources is not None or self.app.resources is None:
            yield self.resources
        else:
            async with self.app.resources() as opened:
                yield opened
