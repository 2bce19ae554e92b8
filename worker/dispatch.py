"""Between a queue's delivery and the flow of jobs: a delivery in, an outcome out, and one log line."""

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, assert_never, cast

import structlog
from arq import Retry as ArqRetry
from arq.typing import WorkerCoroutine

from db.engine import Database
from db.models import JobState
from db.transaction import transaction
from jobs import letters
from jobs.delivery import Delivery
from jobs.envelope import check_job_id, has_ordering_key
from jobs.errors import Undecodable
from jobs.outcome import Buried, Completed, Duplicate, Outcome, Retry
from jobs.process import process
from jobs.registry import Registry
from jobs.retry import Policy
from jobs.text import one_line, shown
from worker.config import process_name
from worker.relay import Relay

log = structlog.stdlib.get_logger("ledgerq.jobs")

RESOURCES = "ledgerq"  # our one entry in arq's ctx
OURS = "ledgerq_kind"  # the attribute by which our engine knows our functions among arq's


class JobBuried(Exception):
    """What a waiting client is told of a job that ended among the dead letters."""


class JobCancelled(Exception):
    """What a waiting client is told of a job that was cancelled."""


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
            await letters.cancel(
                session, delivery.job_id, actor="arq", reason="Job.abort", envelope=envelope
            )


def failure_of(outcome: Outcome) -> JobBuried | JobCancelled | None:
    """What a waiting client is told instead of a result."""
    match outcome:
        case Buried(reason, error):
            return JobBuried(f"{reason}: {one_line(error)}")
        case Duplicate(JobState.DEAD):
            return JobBuried("had ended among the dead letters; see: ledgerq job ID")
        case Duplicate(JobState.CANCELLED):
            return JobCancelled("was cancelled")
        case _:
            return None


def report(delivery: Delivery, name: str, outcome: Outcome, seconds: float) -> None:
    """One log line per delivery: which job, how it ended, and why."""
    line = log.bind(
        job_id=delivery.job_id, kind=name, attempt=delivery.attempt, seconds=round(seconds, 4)
    )
    match outcome:
        case Completed(result):
            line.info("job.completed", result=shown(result))
        case Duplicate(state, result):
            line.info("job.duplicate", state=state.value, result=shown(result))
        case Retry(delay, error, counts_as_attempt):
            line.warning(
                "job.retried",
                delay=round(delay, 3),
                counts_as_attempt=counts_as_attempt,
                error=one_line(error),
            )
        case Buried(reason, error):
            line.error("job.buried", reason=reason, error=one_line(error))
        case _:
            assert_never(outcome)
