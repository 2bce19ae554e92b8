"""Runs arq functions as arq does: reads their jobs, follows arq's rules, writes arq's log lines and results."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from math import isfinite
from typing import Any, Self

from arq.constants import keep_cronjob_progress
from arq.cron import CronJob
from arq.jobs import deserialize_job_raw, serialize_result
from arq.utils import args_to_string, ms_to_datetime, timestamp_ms, to_ms, truncate
from arq.worker import Function, JobExecutionFailed, RetryJob, Worker
from arq.worker import Retry as ArqRetry

from ledgerq.app import Hook
from ledgerq.broker.claims import Ack, Claim
from ledgerq.execution.containment import HandlerMisbehaved, run_apart
from ledgerq.runtime.cancellation import is_stopped, time_limit, told_to_stop
from ledgerq.text import one_line, storable

log = logging.getLogger("arq.worker")  # the logger in which arq's users look for their functions

LATE = 1.2  # seconds of delay above which arq's log mentions the delay


@dataclass(frozen=True, slots=True)
class Options:
    """The options of arq's worker that are needed to run a job, under arq's names."""

    functions: Mapping[str, Function | CronJob]
    queue_name: str
    max_tries: int
    retry_jobs: bool
    log_results: bool
    job_timeout_s: float
    keep_result_s: float
    keep_result_forever: bool
    job_serializer: Callable[[dict[str, Any]], bytes] | None
    job_deserializer: Callable[[bytes], dict[str, Any]] | None
    on_job_start: Hook | None
    on_job_end: Hook | None
    after_job_end: Hook | None

    @classmethod
    def of(cls, worker: Worker) -> Self:
        """The options of this worker."""
        return cls(**{each.name: getattr(worker, each.name) for each in fields(cls)})


@dataclass(slots=True)
class Counters:
    """How many jobs of a worker have ended, and how."""

    complete: int = 0
    failed: int = 0
    retried: int = 0


class Counted:
    """A descriptor: the worker's attribute with arq's name reads and writes one of the worker's `counters`."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, worker: Any, _: type | None = None) -> int:
        return int(getattr(worker.counters, self._name))

    def __set__(self, worker: Any, value: int) -> None:
        setattr(worker.counters, self._name, value)


@dataclass(frozen=True, slots=True)
class Call:
    """A claimed job after its body was read: the function that the job asks for, and the fields for its result.

    `enqueued_ms` and `started_ms` are milliseconds since 1970. `is_ours`: the job is of a ledgerq kind.
    """

    claim: Claim
    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    attempt: int
    enqueued_ms: int
    started_ms: int
    is_ours: bool = False

    @classmethod
    def read(cls, claim: Claim, options: Options) -> Self:
        """The call that the claim's body describes, read as arq reads it.

        Raises:
            SerializationError: the body can't be read.
        """
        name, args, kwargs, asked_try, enqueued_ms = deserialize_job_raw(
            claim.body, deserializer=options.job_deserializer
        )
        attempt = claim.attempt + max(0, (asked_try or 1) - 1)
        return cls(claim, name, args, kwargs, attempt, enqueued_ms, timestamp_ms())

    @classmethod
    def of(cls, claim: Claim) -> Self:
        """From the claim's envelope: for a job whose body is in ledgerq's format.

        Raises:
            Undecodable: the body is not valid.
        """
        envelope = claim.envelope
        payload, sent, now = dict(envelope.payload), envelope.enqueued_ms, timestamp_ms()
        attempt = claim.attempt + max(0, (envelope.attempt or 1) - 1)
        return cls(claim, envelope.wire_name, (), payload, attempt, sent, now, is_ours=True)

    @classmethod
    def unread(cls, claim: Claim) -> Self:
        """A job whose body can't be read, so that only its claim is known."""
        now = timestamp_ms()
        return cls(claim, "<unknown>", (), {}, claim.attempt, now, now)

    @property
    def name(self) -> str:
        """The job's name in arq's log lines: `<job id>:<function>`."""
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
        """The end of arq's log line about a start: the attempt if it is not the first, the delay if it is long."""
        again = f" try={self.attempt}" if self.attempt > 1 else ""
        late = (self.started_ms - self.claim.score) / 1000
        return again + (f" delayed={late:0.2f}s" if late > LATE else "")

    @property
    def as_read(self) -> Claim:
        """The claim, with the attempts that the body counts added, and with ledgerq's JSON in place of a foreign body."""
        body = self.args[0] if self.args else self.claim.body
        as_it_is = self.attempt == self.claim.attempt and body is self.claim.body
        if as_it_is:
            return self.claim
        return replace(self.claim, attempt=self.attempt, body=body, _envelope=None)

    def context(self, ctx: Mapping[Any, Any]) -> dict[Any, Any]:
        """The context that arq passes to functions and hooks: `ctx`, with the job's id, try, times and score."""
        return {
            **ctx,
            "job_id": self.claim.job_id,
            "job_try": self.attempt,
            "enqueue_time": ms_to_datetime(self.enqueued_ms),
            "score": int(self.claim.score) if isfinite(self.claim.score) else 0,
        }


async def run_function(
    call: Call,
    function: Function | CronJob,
    context: dict[Any, Any],
    options: Options,
    counters: Counters,
) -> Ack:
    """Run a service's arq function; answers with the job's ack. Raises nothing but a cancellation from outside."""
    name = call.function if isinstance(function, CronJob) else call.name
    limit = options.max_tries if function.max_tries is None else function.max_tries
    if call.attempt > limit:
        log.warning("%6.2fs ! %s max retries %d exceeded", call.waited, name, limit)
        counters.failed += 1
        return done(
            call, JobExecutionFailed(f"max {limit} retries exceeded"), options, success=False
        )
    shown = args_to_string(call.args, call.kwargs)
    log.info("%6.2fs → %s(%s)%s", call.waited, name, shown, call.remarks)
    timeout = options.job_timeout_s if function.timeout_s is None else function.timeout_s
    try:
        async with time_limit(timeout):
            result = await run_apart(
                lambda: function.coroutine(context, *call.args, **call.kwargs),
                {"job_id": call.claim.job_id, "kind": name, "attempt": call.attempt},
            )
    except BaseException as error:  # whatever the function raises is its job's error
        if told_to_stop(error):
            raise
        if is_stopped():  # the function may have made another error of the cancellation
            raise asyncio.CancelledError from error
        raised = error.error if isinstance(error, HandlerMisbehaved) else error
        return _after_error(call, name, raised, options, counters)
    counters.complete += 1
    shown = _shown(result) if options.log_results and result is not None else ""
    log.info("%6.2fs ← %s ● %s", call.lasted, name, shown)
    return done(call, result, options, success=True)


def _after_error(
    call: Call, name: str, error: BaseException, options: Options, counters: Counters
) -> Ack:
    if options.retry_jobs and isinstance(error, ArqRetry):
        counters.retried += 1
        delay = error.defer_score or 0
        log.info("%6.2fs ↻ %s retrying job in %0.2fs", call.lasted, name, delay / 1000)
        return Ack(call.claim.job_id, "retry", delay)
    if options.retry_jobs and isinstance(error, RetryJob | asyncio.CancelledError):
        counters.retried += 1
        log.info("%6.2fs ↻ %s cancelled, will be run again", call.lasted, name)
        return Ack(call.claim.job_id, "retry")
    text = one_line(error)
    text += ":" if text == type(error).__name__ else ""  # as arq writes an error without a text
    told = "%6.2fs ! %s failed, %s", call.lasted, name, text
    log.error(*told, exc_info=error, extra={"extra": _extra_of(error)})
    counters.failed += 1
    return done(call, error, options, success=False)


async def call_hook(hook: Hook | None, context: dict[Any, Any], options: Options) -> None:
    """Call a hook of the service, if there is one. If the hook fails, the failure is logged, and the job goes on."""
    if hook is None:
        return
    try:
        async with asyncio.timeout(options.job_timeout_s):
            await hook(context)
    except Exception:
        log.exception("hook %s failed", getattr(hook, "__name__", hook))


def done(call: Call, result: Any, options: Options, *, success: bool) -> Ack:
    """The ack of a job that has ended, well or not (`success`), with its result or error.

    The arq function's setting, or else the worker's, says how long Redis keeps the result.
    """
    function = options.functions.get(call.function)
    for_ever, keep = options.keep_result_forever, options.keep_result_s
    if function is not None:
        own = function.keep_result_forever
        for_ever = for_ever if own is None else own
        keep = keep if function.keep_result_s is None else function.keep_result_s
    return Ack(
        call.claim.job_id,
        "done",
        result=_told(call, result, options, success) if for_ever or keep > 0 else b"",
        keep=0 if for_ever else max(1, to_ms(keep) or 1),
        outlive=to_ms(keep_cronjob_progress) or 0 if isinstance(function, CronJob) else 0,
    )


def _told(call: Call, result: Any, options: Options, success: bool) -> bytes:
    args, kwargs = call.args, call.kwargs
    if (
        call.is_ours and not success
    ):  # `to_wire` writes the body's hash: the dead letter has the payload
        args, kwargs = (call.claim.body,), {}
    told = serialize_result(
        call.function, args, kwargs, call.attempt, call.enqueued_ms, success,
        result, call.started_ms, timestamp_ms(), call.name,
        call.claim.queue or options.queue_name, storable(call.claim.job_id), serializer=options.job_serializer,
    )  # fmt: skip
    return told or b""


def _shown(result: Any) -> str:
    """The result as text for arq's log, cut to length."""
    try:
        return truncate(repr(result))
    except Exception as error:  # noqa: BLE001 - the result's own repr runs here, and the job is done
        return f"<repr raised {type(error).__name__}>"


def _extra_of(error: BaseException) -> Any:
    """The attribute `extra` of an error, by which arq's users add to the log; called if it is a function."""
    extra = getattr(error, "extra", None)
    try:
        return extra() if callable(extra) else extra
    except Exception as raised:  # noqa: BLE001 - the error's own code runs here
        return repr(type(raised))
