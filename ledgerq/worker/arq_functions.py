"""Our jobs as arq sees them: a coroutine for each kind, a claimed job as it was read, and what Redis keeps of it."""

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import structlog
from arq import Retry as ArqRetry
from arq.constants import keep_cronjob_progress
from arq.cron import CronJob
from arq.jobs import serialize_result
from arq.typing import WorkerCoroutine
from arq.utils import timestamp_ms, to_ms, truncate
from arq.worker import Worker

from ledgerq.broker.claims import Ack, Claim
from ledgerq.broker.relay import Relay
from ledgerq.database.engine import Database
from ledgerq.database.transaction import transaction
from ledgerq.errors import Undecodable
from ledgerq.execution import interventions
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.outcome import Completed, Outcome, Retry
from ledgerq.execution.process import process
from ledgerq.execution.registry import Registry
from ledgerq.execution.report import failure_of, report
from ledgerq.execution.retry import Policy
from ledgerq.runtime.process_name import process_name
from ledgerq.text import storable
from ledgerq.wire.envelope import Envelope, check_job_id, has_ordering_key

log = structlog.stdlib.get_logger("ledgerq.jobs")

RESOURCES = "ledgerq"  # our one entry in arq's ctx
OURS = "ledgerq_kind"  # the attribute by which our engine knows our functions among arq's
LATE = 1.2  # seconds after its time that arq's log calls delayed


@dataclass(frozen=True, slots=True)
class Resources:
    """What lives as long as the worker process."""

    database: Database
    registry: Registry
    policy: Policy
    relay: Relay


def dispatcher(name: str) -> WorkerCoroutine:
    """The coroutine that arq calls for the kind of that name, or for a body that has no kind here.

    Our own engine does not call it: it knows it by its mark and calls `run`.
    """

    async def dispatch(ctx: dict[str, Any], body: bytes = b"") -> Any:
        delivery = Delivery(ctx["job_id"], ctx["job_try"], body, worker=process_name())
        [outcome] = await run(ctx[RESOURCES], [delivery], name)
        if isinstance(outcome, Retry):
            raise ArqRetry(defer=outcome.delay)
        failure = failure_of(outcome)
        if failure:
            raise failure from None
        return outcome.result  # type: ignore[union-attr]

    dispatch.__qualname__ = name
    setattr(dispatch, OURS, name)
    return cast("WorkerCoroutine", dispatch)


async def run(resources: Resources, deliveries: Sequence[Delivery], name: str) -> list[Outcome]:
    """Take deliveries of one kind to their ends; one log line for all of several that were completed."""
    started = time.perf_counter()
    outcomes = await process(
        deliveries, resources.registry, resources.database.sessions, resources.policy
    )
    seconds = time.perf_counter() - started
    completed = [isinstance(outcome, Completed) for outcome in outcomes]
    if len(deliveries) > 1:
        log.info("batch.completed", kind=name, jobs=sum(completed), seconds=round(seconds, 4))
    _look_for_next(resources, deliveries)
    for delivery, outcome, good in zip(deliveries, outcomes, completed, strict=True):
        if not good or len(deliveries) == 1 or log.is_enabled_for(logging.DEBUG):
            report(delivery, name, outcome, seconds)
    return outcomes


def _look_for_next(resources: Resources, deliveries: Sequence[Delivery]) -> None:
    """One of an ordering key has ended: the next may be due."""
    if any(has_ordering_key(delivery.body) for delivery in deliveries):
        resources.relay.wake()


async def cancel_aborted(resources: Resources, delivery: Delivery) -> None:
    """Make an abort last: the job is cancelled in the database, whatever Redis delivers later."""
    with suppress(Undecodable):  # then it can't have run, and never will
        check_job_id(delivery.job_id)
        envelope = delivery.envelope
        async with transaction(resources.database.sessions) as session:
            await interventions.cancel(
                session, delivery.job_id, actor="arq", reason="Job.abort", envelope=envelope
            )


@dataclass(frozen=True, slots=True)
class Call:
    """A claimed job as it was read: which function it asks for, and what a result says of it."""

    claim: Claim
    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    attempt: int
    enqueued_ms: int
    started_ms: int

    @property
    def name(self) -> str:
        """The job in arq's log lines."""
        return f"{self.claim.job_id}:{self.function}"

    @property
    def waited(self) -> float:
        """Seconds from enqueue to start."""
        return max(0, self.started_ms - self.enqueued_ms) / 1000

    @property
    def lasted(self) -> float:
        """Seconds from start to now."""
        return (timestamp_ms() - self.started_ms) / 1000

    @property
    def remarks(self) -> str:
        """What arq's log adds to a start that is not the first, or late."""
        again = f" try={self.attempt}" if self.attempt > 1 else ""
        late = (self.started_ms - self.claim.score) / 1000
        return again + (f" delayed={late:0.2f}s" if late > LATE else "")


def called(claim: Claim, envelope: Envelope) -> Call:
    """A job of ours, from what was read of it."""
    return Call(
        claim,
        envelope.wire_name,
        (),
        dict(envelope.payload),
        claim.attempt,
        envelope.enqueued_ms,
        timestamp_ms(),
    )


def unread(claim: Claim) -> Call:
    """A job of which nothing but its claim is known."""
    now = timestamp_ms()
    return Call(claim, "<unknown>", (), {}, claim.attempt, now, now)


def shown_in_log(result: Any) -> str:
    """A result, cut to length."""
    try:
        return truncate(repr(result))
    except Exception as error:  # noqa: BLE001 - it is somebody else's repr, and the job is done
        return f"<repr raised {type(error).__name__}>"


def extra_of(error: BaseException) -> Any:
    """What arq's users hang on their exceptions for the log."""
    extra = getattr(error, "extra", None)
    try:
        return extra() if callable(extra) else extra
    except Exception as raised:  # noqa: BLE001 - as above
        return repr(type(raised))


def done(worker: Worker, call: Call, result: Any, *, success: bool) -> Ack:
    """The job is over; its result is kept for as long as the function or the worker says."""
    function = worker.functions.get(call.function)
    for_ever, keep = worker.keep_result_forever, worker.keep_result_s
    if function is not None:
        own = function.keep_result_forever
        for_ever = for_ever if own is None else own
        keep = keep if function.keep_result_s is None else function.keep_result_s
    return Ack(
        call.claim.job_id,
        "done",
        result=_told(worker, call, result, success) if for_ever or keep > 0 else b"",
        keep=0 if for_ever else max(1, to_ms(keep) or 1),
        outlive=to_ms(keep_cronjob_progress) or 0 if isinstance(function, CronJob) else 0,
    )


def _told(worker: Worker, call: Call, result: Any, success: bool) -> bytes:
    told = serialize_result(
        call.function, call.args, call.kwargs, call.attempt, call.enqueued_ms, success,
        result, call.started_ms, timestamp_ms(), call.name,
        worker.queue_name, storable(call.claim.job_id), serializer=worker.job_serializer,
    )  # fmt: skip
    return told or b""
