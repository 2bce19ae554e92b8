"""Between arq and the flow: a delivery in, an outcome out, told to arq in the way it understands."""

import time
from dataclasses import dataclass
from typing import Any, assert_never, cast

import structlog
from arq import Retry as ArqRetry
from arq.typing import WorkerCoroutine

from db.engine import Database
from jobs.envelope import Delivery
from jobs.outcome import Buried, Completed, Duplicate, Outcome, Retry
from jobs.process import process
from jobs.registry import Registry
from jobs.retry import Policy

log = structlog.stdlib.get_logger("ledgerq.jobs")

RESOURCES = "ledgerq"  # our one entry in arq's ctx


class JobBuried(Exception):
    """What arq is told of a job that ended among the dead letters; it keeps this as the result."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What lives as long as the worker process."""

    database: Database
    registry: Registry
    policy: Policy


def dispatcher(name: str) -> WorkerCoroutine:
    """The coroutine that arq calls for the kind of that name, or for a body that has no kind here."""

    async def dispatch(ctx: dict[str, Any], body: bytes = b"") -> Any:
        resources: Resources = ctx[RESOURCES]
        delivery = Delivery(ctx["job_id"], ctx["job_try"], body)
        started = time.perf_counter()
        outcome = await process(
            delivery, resources.registry, resources.database.sessions, resources.policy
        )
        report(delivery, name, outcome, time.perf_counter() - started)
        return _tell_arq(outcome)

    dispatch.__qualname__ = name
    return cast("WorkerCoroutine", dispatch)


def report(delivery: Delivery, name: str, outcome: Outcome, seconds: float) -> None:
    """One log line per delivery: which job, how it ended, and why."""
    line = log.bind(
        job_id=delivery.job_id, kind=name, attempt=delivery.attempt, seconds=round(seconds, 4)
    )
    match outcome:
        case Completed(result):
            line.info("job.completed", result=result)
        case Duplicate(result):
            line.info("job.duplicate", result=result)
        case Retry(delay, error):
            line.warning("job.retried", delay=round(delay, 3), error=_one_line(error))
        case Buried(reason, error):
            line.error("job.buried", reason=reason, error=_one_line(error))
        case _:
            assert_never(outcome)


def _tell_arq(outcome: Outcome) -> Any:
    match outcome:
        case Completed(result) | Duplicate(result):
            return result
        case Retry(delay):
            raise ArqRetry(defer=delay)
        case Buried(reason, error):
            raise JobBuried(f"{reason}: {error}") from None
        case _:
            assert_never(outcome)


def _one_line(error: BaseException) -> str:
    text = str(getattr(error, "orig", None) or error)
    return f"{type(error).__name__}: {' '.join(text.split())}"
