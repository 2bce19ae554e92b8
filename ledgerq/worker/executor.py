"""Runs what was claimed: our kinds by the flow of jobs, anybody else's functions as arq's users know them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from math import isfinite
from typing import Any

from arq.cron import CronJob
from arq.jobs import SerializationError, deserialize_job_raw
from arq.utils import args_to_string, ms_to_datetime, timestamp_ms
from arq.worker import Function, JobExecutionFailed, RetryJob, Worker
from arq.worker import Retry as ArqRetry

from ledgerq.broker.claims import Ack, AckAction, Claim
from ledgerq.database.transaction import transaction
from ledgerq.errors import Expired, Undecodable
from ledgerq.execution.dead_letter import MAX_NOTE, bury
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.handlers import told_to_stop
from ledgerq.execution.isolation import HandlerMisbehaved, run_apart
from ledgerq.execution.outcome import Buried, Completed, Duplicate, Outcome, Retry
from ledgerq.execution.process import conclude
from ledgerq.execution.report import failure_of, report
from ledgerq.store import outbox
from ledgerq.text import one_line
from ledgerq.wire.arq_json import UNROUTABLE
from ledgerq.worker.arq_functions import (
    OURS,
    RESOURCES,
    Call,
    Resources,
    called,
    cancel_aborted,
    done,
    extra_of,
    run,
    shown_in_log,
    unread,
)

log = logging.getLogger("arq.worker")  # what arq's users look at for functions of their own

_BROKEN = 15_000  # milliseconds before a job is tried again that broke what runs it


class Executor:
    """Runs the claims of one worker, each to the ack that Redis is sent.

    Args:
        worker: whose functions, hooks and options are arq's.
        name: of the worker, in what is kept of an attempt.
        on_interrupted: is called when a job lost its connection to the database.
        on_wait: is told what a job waits for that others have to mend: the reason, and a text.
    """

    def __init__(
        self,
        worker: Worker,
        name: str,
        *,
        on_interrupted: Callable[[], None],
        on_wait: Callable[[str, str], None],
    ) -> None:
        self._worker, self._name = worker, name
        self._on_interrupted, self._on_wait = on_interrupted, on_wait

    async def run(self, claim: Claim) -> Ack:
        """Run one job. Raises nothing but a cancellation."""
        if claim.is_batchable:
            return (await self.run_batch([claim]))[0]
        return await self._run(claim)

    async def _run(self, claim: Claim) -> Ack:
        if not claim.body:
            return await self._without_body(claim)
        try:
            call = self._read(claim, claim.body)
        except SerializationError as error:
            return self.failed(unread(claim), error)
        function = self._worker.functions.get(call.function)
        if function is None:
            log.warning("job %s, function %r not found", claim.job_id, call.function)
            problem = JobExecutionFailed(f"function {call.function!r} not found")
            return self.failed(call, problem)
        context = self._context(call)
        await self._hook(self._worker.on_job_start, context)
        kind = getattr(function.coroutine, OURS, None)
        ack = await (self._ours(call, kind) if kind else self._foreign(call, function, context))
        await self._hook(self._worker.on_job_end, context)
        return ack

    async def run_batch(self, claims: Sequence[Claim]) -> list[Ack]:
        """Run jobs of kinds whose jobs may share a transaction, those of one kind together."""
        resources: Resources = self._worker.ctx[RESOURCES]
        batches: dict[str, list[tuple[Claim, Delivery]]] = {}
        alone: list[Claim] = []
        for claim in claims:
            delivery = self._delivery(claim, claim.attempt)
            try:
                first, kind = delivery.is_first, delivery.envelope.kind
            except Undecodable:
                alone.append(claim)
                continue
            if first and kind in resources.registry:
                batches.setdefault(kind, []).append((claim, delivery))
            else:
                alone.append(claim)
        acks = {}
        for name, batch in batches.items():
            outcomes = await run(resources, [delivery for _, delivery in batch], name)
            for (claim, delivery), outcome in zip(batch, outcomes, strict=True):
                acks[claim.job_id] = self._ack(called(claim, delivery.envelope), outcome)
        for claim in alone:
            acks[claim.job_id] = await self._run(claim)
        return [acks[claim.job_id] for claim in claims]

    async def after(self, claims: Sequence[Claim]) -> None:
        """Call the hook that wants to know of ended jobs."""
        for claim in claims if self._worker.after_job_end else ():
            context = {**self._worker.ctx, "job_id": claim.job_id, "job_try": claim.attempt}
            await self._hook(self._worker.after_job_end, context)

    async def broken(self, claim: Claim, error: BaseException) -> Ack:
        """What runs the job has failed itself. That is an attempt of the job too: it must not go on for ever."""
        log.error("job %s broke what runs it: %s", claim.job_id, one_line(error), exc_info=error)
        resources: Resources | None = self._worker.ctx.get(RESOURCES)
        try:
            if resources:
                database, policy = resources.database, resources.policy
                delivery = self._delivery(claim, claim.attempt)
                outcome = await conclude(error, delivery, database.sessions, policy)
                return self._ack(unread(claim), outcome)
        except Exception:
            log.exception("job %s broke what runs it once more", claim.job_id)
        return Ack(claim.job_id, "retry", _BROKEN)

    def failed(self, call: Call, error: BaseException) -> Ack:
        """The job is over, and this is what a waiting client is told."""
        self._worker.jobs_failed += 1
        return done(self._worker, call, error, success=False)

    def handed_back(self) -> None:
        """Count a job that will run elsewhere."""
        self._worker.jobs_retried += 1

    async def aborted(self, claim: Claim, *, started: bool = True) -> Ack:
        """The job is over because arq's `Job.abort` asked for it; one of our kinds never runs again."""
        try:
            call = self._read(claim, claim.body or b"")
        except SerializationError:
            call = unread(claim)
        resources: Resources | None = self._worker.ctx.get(RESOURCES)
        function = self._worker.functions.get(call.function)
        if resources and function and hasattr(function.coroutine, OURS):
            try:
                await cancel_aborted(resources, self._delivery(claim, call.attempt))
            except Exception as error:  # noqa: BLE001 - asked again when the database answers
                return self._again(call, Retry(1, error, counts_as_attempt=False))
        when = "" if started else " before start"
        log.info("%6.2fs ⊘ %s aborted%s", call.waited, call.name, when)
        return self.failed(call, asyncio.CancelledError())

    async def _ours(self, call: Call, kind: str) -> Ack:
        resources: Resources = self._worker.ctx[RESOURCES]
        [outcome] = await run(resources, [self._delivery(call.claim, call.attempt)], kind)
        return self._ack(call, outcome)

    def _ack(self, call: Call, outcome: Outcome) -> Ack:
        worker = self._worker
        match outcome:
            case Retry():
                worker.jobs_retried += 1
                if outcome.waits_for:
                    self._on_wait(outcome.waits_for, one_line(outcome.error))
                return self._again(call, outcome)
            case Completed(result) | Duplicate(_, result) if not failure_of(outcome):
                worker.jobs_complete += 1
                return done(self._worker, call, result, success=True)
            case _:
                return self.failed(call, failure_of(outcome) or JobExecutionFailed("ended"))

    def _again(self, call: Call, retry: Retry) -> Ack:
        if retry.interrupted:
            self._on_interrupted()
        note = {
            "attempt": call.attempt,
            "worker": self._name,
            "since": call.started_ms,
            "at": timestamp_ms(),
            "error": one_line(retry.error, MAX_NOTE),
        }
        action: AckAction = (
            "retry" if retry.counts_as_attempt else "interrupt" if retry.interrupted else "release"
        )
        quiet = action == "release"  # a job that snoozes for a year must not fill its log
        return Ack(call.claim.job_id, action, int(retry.delay * 1000), note=None if quiet else note)

    def _delivery(self, claim: Claim, attempt: int) -> Delivery:
        return Delivery(
            claim.job_id,
            attempt,
            claim.body or b"",
            claim.crashes,
            claim.interruptions,
            claim.history,
            self._name,
        )

    async def _foreign(
        self, call: Call, function: Function | CronJob, context: dict[Any, Any]
    ) -> Ack:
        """A function of arq's users: arq's rules, arq's log lines."""
        worker = self._worker
        name = call.function if isinstance(function, CronJob) else call.name
        limit = worker.max_tries if function.max_tries is None else function.max_tries
        if call.attempt > limit:
            log.warning("%6.2fs ! %s max retries %d exceeded", call.waited, name, limit)
            return self.failed(call, JobExecutionFailed(f"max {limit} retries exceeded"))
        shown = args_to_string(call.args, call.kwargs)
        log.info("%6.2fs → %s(%s)%s", call.waited, name, shown, call.remarks)
        timeout = worker.job_timeout_s if function.timeout_s is None else function.timeout_s
        try:
            async with asyncio.timeout(timeout):
                result = await run_apart(
                    lambda: function.coroutine(context, *call.args, **call.kwargs),
                    {"job_id": call.claim.job_id, "kind": name, "attempt": call.attempt},
                )
        except BaseException as error:  # what a function raises is its own affair
            if told_to_stop(error):
                raise
            raised = error.error if isinstance(error, HandlerMisbehaved) else error
            return self._foreign_error(call, name, raised)
        worker.jobs_complete += 1
        shown = shown_in_log(result) if worker.log_results and result is not None else ""
        log.info("%6.2fs ← %s ● %s", call.lasted, name, shown)
        return done(self._worker, call, result, success=True)

    def _foreign_error(self, call: Call, name: str, error: BaseException) -> Ack:
        worker = self._worker
        if worker.retry_jobs and isinstance(error, ArqRetry):
            worker.jobs_retried += 1
            delay = error.defer_score or 0
            log.info("%6.2fs ↻ %s retrying job in %0.2fs", call.lasted, name, delay / 1000)
            return Ack(call.claim.job_id, "retry", delay)
        if worker.retry_jobs and isinstance(error, RetryJob | asyncio.CancelledError):
            worker.jobs_retried += 1
            log.info("%6.2fs ↻ %s cancelled, will be run again", call.lasted, name)
            return Ack(call.claim.job_id, "retry")
        told = "%6.2fs ! %s failed, %s", call.lasted, name, one_line(error)
        log.error(*told, exc_info=error, extra={"extra": extra_of(error)})
        return self.failed(call, error)

    def _read(self, claim: Claim, body: bytes) -> Call:
        name, args, kwargs, asked_try, enqueued_ms = deserialize_job_raw(
            body, deserializer=self._worker.job_deserializer
        )
        attempt = claim.attempt + max(0, (asked_try or 1) - 1)
        return Call(claim, name, args, kwargs, attempt, enqueued_ms, timestamp_ms())

    def _context(self, call: Call) -> dict[Any, Any]:
        return {
            **self._worker.ctx,
            "job_id": call.claim.job_id,
            "job_try": call.attempt,
            "enqueue_time": ms_to_datetime(call.enqueued_ms),
            "score": int(call.claim.score) if isfinite(call.claim.score) else 0,
        }

    async def _hook(
        self, hook: Callable[[dict[Any, Any]], Awaitable[Any]] | None, context: dict[Any, Any]
    ) -> None:
        """Call a hook of the worker's user. Its failure is logged: it decides nothing."""
        if hook is None:
            return
        try:
            async with asyncio.timeout(self._worker.job_timeout_s):
                await hook(context)
        except Exception:
            log.exception("hook %s failed", getattr(hook, "__name__", hook))

    async def _without_body(self, claim: Claim) -> Ack:
        """Redis has lost the body: a staged job comes again from the outbox, another one is buried."""
        call = unread(claim)
        resources: Resources | None = self._worker.ctx.get(RESOURCES)
        if resources is None:
            log.warning("job %s expired", claim.job_id)
            return self.failed(call, JobExecutionFailed("job expired"))
        delivery = self._delivery(claim, claim.attempt)
        outcome: Outcome
        try:
            async with transaction(resources.database.sessions) as session:
                staged = await outbox.due_now(session, [claim.job_id])
        except Exception as error:  # noqa: BLE001 - asked again when the database answers
            outcome = Retry(1, error, counts_as_attempt=False)
        else:
            if staged:
                resources.relay.wake()
                return Ack(claim.job_id, "release", 1000)  # the body comes before that
            burial = Buried(Expired.reason, Expired())
            outcome = await bury(delivery, burial, resources.database.sessions, resources.policy)
        report(delivery, UNROUTABLE, outcome, 0)
        return self._ack(call, outcome)
