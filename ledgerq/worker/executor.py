"""Runs claimed jobs: those of ledgerq's kinds by `ledgerq.execution.process`, arq functions by arq's rules."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, assert_never

from arq.jobs import SerializationError
from arq.utils import timestamp_ms
from arq.worker import JobExecutionFailed

from ledgerq.broker.claims import Ack, AckAction, Claim
from ledgerq.database.transaction import transaction
from ledgerq.errors import Expired, Undecodable, UnknownKind, WorkerLost
from ledgerq.execution import interventions
from ledgerq.execution.dead_letter import MAX_NOTE, bury
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.outcome import Buried, Completed, Dropped, Duplicate, Outcome, Retry
from ledgerq.execution.process import conclude
from ledgerq.execution.report import failure_of, report
from ledgerq.store import inbox, outbox
from ledgerq.store.tables import JobState
from ledgerq.text import one_line
from ledgerq.wire.arq_formats import FUNCTION, PROBLEM
from ledgerq.wire.arq_json import UNROUTABLE
from ledgerq.wire.foreign import foreign_format
from ledgerq.worker.arq_functions import Call, Counters, Options, call_hook, done, run_function
from ledgerq.worker.left_jobs import LeftJobs
from ledgerq.worker.processor import OURS, NotBegun, Processor, is_ours
from ledgerq.worker.sharing import KindSizes

log = logging.getLogger("arq.worker")  # the logger in which arq's users look for their functions

_BROKEN = 15_000  # milliseconds until the next try of a job during which the executor failed


@dataclass(frozen=True, slots=True)
class Executor:
    """Runs the claims of one worker; answers each claim with the ack to send to Redis.

    Args:
        name: the worker's name, for the notes on failed attempts.
        ctx: arq's context, for hooks and arq functions.
        options: arq's options, as the worker was given them.
        processor: processes jobs of ledgerq's kinds; None in a worker that has only arq functions.
        counters: counts the jobs that have ended.
        left: leaves jobs on the queue whose bodies this worker can't read.
        on_interrupted: is called when a job lost its connection to the database, or was held up by other jobs.
        max_crashes: an arq function is given up after so many workers died with its job; ledgerq's kinds have their policy.
        on_wait: is called when a job waits for something that others must fix, with (queue, reason) and a text.
    """

    name: str
    ctx: Mapping[Any, Any]
    options: Options
    processor: Processor | None
    counters: Counters
    left: LeftJobs
    on_interrupted: Callable[[], None]
    on_wait: Callable[[tuple[str, str], str], None]
    max_crashes: int
    _just_left: set[str] = field(default_factory=set)
    _sizes: KindSizes = field(default_factory=KindSizes)

    async def run(self, claims: Sequence[Claim]) -> list[Ack]:
        """Run jobs; those of one kind run together if they may share a transaction. Answers with an ack for each job.

        Apart from a cancellation, an error that is raised here is a failure of the executor itself: see `broken`.
        """
        by_kind: dict[str, list[Claim]] = {}
        alone = []
        for claim in claims:
            if (
                self.processor
                and claim.is_batchable
                and (kind := _kind_of(claim)) in self.processor.registry
            ):
                by_kind.setdefault(kind, []).append(claim)
            else:
                alone.append(claim)
        acks = {}
        for kind, batch in by_kind.items():
            for group in self._sizes.groups(kind, batch):
                for claim, outcome in zip(group, await self._together(group, kind), strict=True):
                    acks[claim.job_id] = self._ack(Call.of(claim), outcome)
        for claim in alone:
            acks[claim.job_id] = await self._run_alone(claim)
        return [acks[claim.job_id] for claim in claims]

    async def _together(self, claims: Sequence[Claim], kind: str) -> Sequence[Outcome]:
        assert self.processor  # noqa: S101 - the kinds are its
        started = time.monotonic()
        outcomes = await self.processor.process(claims, kind)
        self._sizes.learn(kind, len(claims), time.monotonic() - started)
        return outcomes

    async def _run_alone(self, claim: Claim) -> Ack:
        if not claim.body:
            return await self._without_body(claim)
        try:
            call = self._read(claim)
        except SerializationError as error:
            return self.failed(Call.unread(claim), error)
        if call.function == UNROUTABLE and call.args and foreign_format(call.args[0]):
            return self._leave(claim, call)
        function = self.options.functions.get(call.function)
        if function is None:
            log.warning("job %s, function %r not found", claim.job_id, call.function)
            return self.failed(call, JobExecutionFailed(f"function {call.function!r} not found"))
        kind, options = getattr(function.coroutine, OURS, None), self.options
        is_asked = not kind or options.on_job_start or options.on_job_end
        context = call.context(self.ctx) if is_asked else {}
        await call_hook(options.on_job_start, context, options)
        if kind:
            if self.processor is None:  # it is tried again: nothing was done
                raise NotBegun
            ack = self._ack(call, await self._process(self.processor, call.as_read, call))
        elif claim.crashes >= self.max_crashes:
            return self.failed(call, WorkerLost(claim.crashes))
        else:
            ack = await run_function(call, function, context, options, self.counters)
        await call_hook(options.on_job_end, context, options)
        return ack

    async def _process(self, processor: Processor, claim: Claim, call: Call) -> Outcome:
        """Process a job of a ledgerq kind.

        A call of `UNROUTABLE` that names a function is a job of an arq function that this worker lacks: its kind is
        unknown, so the job is retried, since a deploy may bring the function.
        """
        if name := call.kwargs.get(FUNCTION) if call.function == UNROUTABLE else None:
            unknown = UnknownKind(name, self.options.functions)
            outcome = await conclude(unknown, claim, processor.database.sessions, processor.policy)
            report(claim, UNROUTABLE, outcome, 0)
            return outcome
        [outcome] = await processor.process([claim], call.function)
        return outcome

    def _leave(self, claim: Claim, call: Call) -> Ack:
        if self.options.after_job_end:
            self._just_left.add(claim.job_id)
        return self.left.leave(claim, call.kwargs.get(PROBLEM, ""))

    def _read(self, claim: Claim) -> Call:
        """Read the body: by ledgerq, if the job is of one of its kinds; else as arq's worker reads a body."""
        if self.processor:
            with suppress(Undecodable):
                function = self.options.functions.get(claim.envelope.wire_name)
                if function and is_ours(function):
                    return Call.of(claim)
        return Call.read(claim, self.options)

    def _read_or_not(self, claim: Claim) -> Call:
        try:
            return self._read(claim)
        except SerializationError:
            return Call.unread(claim)

    async def after(self, claims: Sequence[Claim]) -> None:
        """Call the hook `after_job_end` for these jobs, except those that are left on the queue."""
        for claim in claims if self.options.after_job_end else ():
            if claim.job_id in self._just_left:
                self._just_left.discard(claim.job_id)
                continue
            context = {**self.ctx, "job_id": claim.job_id, "job_try": claim.attempt}
            await call_hook(self.options.after_job_end, context, self.options)

    async def broken(self, claim: Claim, error: BaseException) -> Ack:
        """Make the ack of a job during which the executor itself failed: a retry, or the end of a job that is given up.

        The failure counts as an attempt of the job: otherwise the job could be retried without end.
        """
        log.error("job %s broke what runs it: %s", claim.job_id, one_line(error), exc_info=error)
        try:
            if self.processor:
                sessions, policy = self.processor.database.sessions, self.processor.policy
                outcome = await conclude(error, claim, sessions, policy)
                return self._ack(Call.unread(claim), outcome)
        except Exception:
            log.exception("job %s broke what runs it once more", claim.job_id)
        return Ack(claim.job_id, "retry", _BROKEN)

    def failed(self, call: Call, error: BaseException) -> Ack:
        """Count a job as failed; returns the ack that ends it and stores `error` as the result for a waiting client."""
        self.counters.failed += 1
        return done(call, error, self.options, success=False)

    def handed_back(self, claim: Claim, *, delay: int = 0) -> Ack:
        """The ack that puts a cancelled job back on the queue, due after `delay` ms. The cancelled run spends no attempt."""
        call = self._read_or_not(claim)
        log.info("%6.2fs ↻ %s cancelled, will be run again", call.lasted, call.name)
        self.counters.retried += 1
        return Ack(claim.job_id, "release", delay)

    async def aborted(self, claim: Claim, *, started: bool = True) -> Ack:
        """End a job that arq's `Job.abort` has stopped; returns the job's ack. `started` is False if the job never ran.

        A ledgerq job is also cancelled in the database, unless done there. If the database fails, the abort repeats in 1 s.
        """
        call = self._read_or_not(claim)
        if self.processor and self.leaves_receipt(claim):
            try:
                ended = await self._cancel(self.processor, claim)
            except Exception as error:  # noqa: BLE001 - asked again when the database answers
                return self._again(call, Retry(1, error, counts_as_attempt=False))
            if ended:
                return self._ack(call, ended)
        when = "" if started else " before start"
        log.info("%6.2fs ⊘ %s aborted%s", call.waited, call.name, when)
        return self.failed(call, asyncio.CancelledError())

    def leaves_receipt(self, claim: Claim) -> bool:
        """True if the job is of a ledgerq kind: its receipt keeps it from being done twice. False for an arq function."""
        function = self.options.functions.get(self._read_or_not(claim).function)
        return function is not None and is_ours(function)

    async def _cancel(self, processor: Processor, delivery: Delivery) -> Duplicate | None:
        """Cancel an aborted job in the database, so that a later delivery does not run it; tells if it was done before."""
        with suppress(Undecodable):  # then it can't have run, and never will
            job_id, envelope = delivery.job_id, delivery.envelope
            async with transaction(processor.database.sessions) as session:
                state = await interventions.cancel(
                    session, job_id, actor="arq", reason="Job.abort", envelope=envelope
                )
                if state is JobState.DONE:
                    return Duplicate(state, (await inbox.get_receipt(session, job_id)).result)
        return None

    def _ack(self, call: Call, outcome: Outcome) -> Ack:
        match outcome:
            case Retry():
                self.counters.retried += 1
                if outcome.waits_for:
                    reason = (call.claim.queue, outcome.waits_for)
                    self.on_wait(reason, one_line(outcome.error))
                return self._again(call, outcome)
            case Completed(result) | Duplicate(JobState.DONE, result):
                self.counters.complete += 1
                return done(call, result, self.options, success=True)
            case Buried() | Duplicate():
                return self.failed(call, failure_of(outcome) or JobExecutionFailed("ended"))
            case Dropped():
                return Ack(call.claim.job_id, "done")
            case _:
                assert_never(outcome)

    def _again(self, call: Call, retry: Retry) -> Ack:
        if retry.interrupted:
            self.on_interrupted()
        note = {
            "attempt": call.attempt,
            "worker": self.name,
            "since": call.started_ms,
            "at": timestamp_ms(),
            "error": one_line(retry.error, MAX_NOTE),
        }
        action: AckAction = (
            "retry" if retry.counts_as_attempt else "interrupt" if retry.interrupted else "release"
        )
        quiet = action == "release"  # a job that snoozes for a year must not fill its log
        return Ack(call.claim.job_id, action, int(retry.delay * 1000), note=None if quiet else note)

    async def _without_body(self, claim: Claim) -> Ack:
        """The ack of a job whose body Redis has lost: a staged job is sent again from the outbox, any other is buried.

        In a worker without ledgerq kinds, the job fails as expired, as under arq's worker.
        """
        call = Call.unread(claim)
        if self.processor is None:
            log.warning("job %s expired", claim.job_id)
            return self.failed(call, JobExecutionFailed("job expired"))
        sessions = self.processor.database.sessions
        outcome: Outcome
        try:
            async with transaction(sessions) as session:
                staged = await outbox.due_now(session, [claim.job_id])
        except Exception as error:  # noqa: BLE001 - asked again when the database answers
            outcome = Retry(1, error, counts_as_attempt=False)
        else:
            if staged:
                self.processor.relay.wake()
                return Ack(claim.job_id, "release", 1000)  # the body is there before then
            burial = Buried(Expired.reason, Expired())
            outcome = await bury(claim, burial, sessions, self.processor.policy)
        report(claim, UNROUTABLE, outcome, 0)
        return self._ack(call, outcome)


def _kind_of(claim: Claim) -> str:
    """The kind of a job at its first attempt; '' for a later attempt, or if the body can't be read."""
    with suppress(Undecodable):
        if claim.is_first:
            return claim.envelope.kind
    return ""
