"""The processor of ledgerq's kinds, which lives as long as the worker process; and arq's coroutine for each kind."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never, cast

import structlog
from arq import Retry as ArqRetry
from arq.typing import WorkerCoroutine

from ledgerq.broker.keys import retry_key_prefix
from ledgerq.broker.relay import Relay
from ledgerq.database.engine import Database
from ledgerq.errors import LedgerqError
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.outcome import Buried, Completed, Dropped, Duplicate, Outcome, Retry
from ledgerq.execution.process import process
from ledgerq.execution.registry import Registry
from ledgerq.execution.report import failure_of, report
from ledgerq.execution.retry import Policy
from ledgerq.runtime.process_name import process_name
from ledgerq.wire.arq_formats import PROBLEM
from ledgerq.wire.arq_json import UNROUTABLE
from ledgerq.wire.envelope import has_ordering_key
from ledgerq.wire.foreign import foreign_format
from ledgerq.worker.sharing import SharingAdvice

log = structlog.stdlib.get_logger("ledgerq.jobs")

PROCESSOR = "ledgerq"  # the key of the `Processor` in arq's ctx
_LEFT_FOR = 60  # seconds until a left job comes back, under arq's own worker
OURS = "ledgerq_kind"  # the attribute that marks functions of ledgerq's kinds among arq's functions


@dataclass(frozen=True, slots=True)
class Processor:
    """Processes deliveries, with the database, kinds, policy and relay of the worker process."""

    database: Database
    registry: Registry
    policy: Policy
    relay: Relay
    advice: SharingAdvice = field(default_factory=SharingAdvice)

    def time_limit(self, kind: str) -> float | None:
        """The seconds that a job of this kind may take; None if ledgerq has no such kind."""
        if kind not in self.registry:
            return None
        return self.registry.kind(kind).timeout or self.policy.timeout

    async def dispatch(self) -> int:
        """Wait until jobs staged by this worker's jobs are sent, then put due staged jobs on Redis; returns their number."""
        if self.registry.client:
            await self.registry.client.sent()
        return await self.relay.dispatch()

    async def process(self, deliveries: Sequence[Delivery], name: str) -> list[Outcome]:
        """Process deliveries of one kind; answers with their outcomes, and logs them.

        The completed jobs of a batch share one log line; each other outcome has its own. `name` is the kind in the log.
        """
        started = time.perf_counter()
        sessions = self.database.sessions
        outcomes = await process(deliveries, self.registry, sessions, self.policy)
        seconds = time.perf_counter() - started
        completed = [isinstance(outcome, Completed) for outcome in outcomes]
        if len(deliveries) > 1:
            log.info("group.completed", kind=name, jobs=sum(completed), seconds=round(seconds, 4))
        if any(has_ordering_key(delivery.body) for delivery in deliveries):
            self.relay.wake()  # the next one of an ordering key may be due
        for delivery, outcome, good in zip(deliveries, outcomes, completed, strict=True):
            if not good or len(deliveries) == 1 or log.is_enabled_for(logging.DEBUG):
                report(delivery, name, outcome, seconds)
        if len(deliveries) == 1 and completed[0] and name in self.registry.single_kinds:
            self.advice.completed(name, seconds)
        return outcomes


class NotBegun(LedgerqError):
    """The worker has ledgerq kinds, but its startup hook has not called `Lifecycle.begin`."""

    def __init__(self) -> None:
        super().__init__(
            "App(on_startup=): the hook did not begin the worker's life; call "
            "`await lifecycle_of(ctx).begin(ctx, database)` in it"
        )


def is_ours(function: Any) -> bool:
    """True if the arq function stands for a kind of job that `@job` made."""
    return hasattr(function.coroutine, OURS)


def arq_coroutine(name: str) -> WorkerCoroutine:
    """The coroutine that arq registers for the kind `name`, or, for `UNROUTABLE`, for bodies that fit no function.

    Only arq's own worker calls the coroutine, which then processes the job as ledgerq's worker does. ledgerq's worker sees the
    coroutine's attribute, whose name is in `OURS`, and processes the job without the call.
    """

    async def run(ctx: dict[str, Any], body: bytes = b"", **told: str) -> Any:
        if name == UNROUTABLE and foreign_format(body):
            await _leave(ctx, told.get(PROBLEM, ""))
        processor: Processor = ctx[PROCESSOR]
        delivery = Delivery(ctx["job_id"], ctx["job_try"], body, worker=process_name())
        [outcome] = await processor.process([delivery], name)
        if failure := failure_of(outcome):
            raise failure from None
        match outcome:
            case Retry():
                raise ArqRetry(defer=outcome.delay)
            case Completed(result) | Duplicate(_, result):
                return result
            case Buried() | Dropped():  # a burial was raised above
                return None
            case _:
                assert_never(outcome)

    run.__qualname__ = name
    setattr(run, OURS, name)
    return cast("WorkerCoroutine", run)


async def _leave(ctx: dict[str, Any], problem: str) -> None:
    """Leave a job on the queue, under arq's own worker: undo arq's count of the attempt, and retry later.

    Raises:
        ArqRetry: always.
    """
    await ctx["redis"].decr(f"{retry_key_prefix}{ctx['job_id']}")
    log.warning("job.left", job_id=ctx["job_id"], problem=problem or "no deserializer reads it")
    raise ArqRetry(defer=_LEFT_FOR)
