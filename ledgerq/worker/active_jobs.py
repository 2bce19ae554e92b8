"""The jobs that a worker runs now: starts them, cancels them for a reason, and acknowledges them."""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from enum import Enum, auto
from typing import Any

import structlog

from ledgerq.broker.claims import Ack, Claim
from ledgerq.broker.room import NO_ROOM, Room
from ledgerq.errors import CancelledByItself
from ledgerq.execution.registry import Registry
from ledgerq.runtime.cancellation import stop, stopped_by_stop
from ledgerq.worker.acker import Acker
from ledgerq.worker.executor import Executor
from ledgerq.worker.sharing import BatchSize

log = structlog.stdlib.get_logger("ledgerq.worker")

_MAX_WITHOUT_SLOT = (
    50  # jobs that wait for their ack alone and take no slot: Redis may be away for long
)


class CancelReason(Enum):
    """Why a running job is cancelled."""

    ABORTED = auto()  # by arq's Job.abort: the job has ended
    CANCELLED = auto()  # `ledgerq cancel` waits for the rollback, and then ends the job for good
    TAKEN = auto()  # the lease ran out, and another worker has the job
    STOPPING = auto()  # the worker stops; the job runs elsewhere, and no attempt is spent


class ActiveJobs:
    """Runs claims as tasks. The attributes `tasks` and `jobs` map job ids to tasks, as those of arq's worker do.

    A task in `tasks` takes a job from its start to its ack; a task in `jobs` only runs the handler.

    Args:
        executor: runs the claims.
        acker: sends their acks.
        on_ended: is called when a slot is free for another job: a job or batch has ended, or a job lacks only its ack.
        batches: learns how large batches were, and how long they took.
        max_outside: the most jobs that work outside of the database at once. They take no slot of the other jobs.
    """

    def __init__(
        self,
        executor: Executor,
        acker: Acker,
        on_ended: Callable[[], None],
        batches: BatchSize,
        max_outside: int,
    ) -> None:
        self._executor, self._acker, self._on_ended = executor, acker, on_ended
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.jobs: dict[str, asyncio.Task[Any]] = {}
        self._claims: dict[str, Claim] = {}  # of the tasks
        self._reasons: dict[str, CancelReason] = {}
        self.started = 0  # number of jobs that were started
        self._isolated = ""  # the job that must run alone: workers died with it
        self._outside: dict[str, Claim] = {}  # the running jobs that work outside of the database
        self._unacknowledged = set[str]()  # jobs that are done, but for their ack …
        self._returned = set[str]()  # … and those that go back to the queue
        self._batches, self._max_outside = batches, max_outside

    @property
    def isolated(self) -> bool:
        """True if a job runs that must run alone."""
        return bool(self._isolated)

    @property
    def outside(self) -> int:
        """The number of running jobs that work outside of the database."""
        return len(self._outside)

    @property
    def slots_taken(self) -> int:
        """How many of the worker's `max_jobs` slots are in use.

        Jobs in a batch take none, nor do jobs that work outside of the database, nor the first jobs of which only the ack is missing.
        """
        tasks = len(self.tasks) - self._batches.jobs - self.outside
        return tasks - min(len(self._unacknowledged), _MAX_WITHOUT_SLOT)

    @property
    def inside(self) -> list[asyncio.Task[None]]:
        """The tasks of the running jobs that do not work outside of the database."""
        return [task for job_id, task in self.tasks.items() if job_id not in self._outside]

    @property
    def unfinished(self) -> list[asyncio.Task[None]]:
        """The tasks that have not come to their end."""
        return [task for task in self.tasks.values() if not task.done()]

    @property
    def releasable(self) -> list[Claim]:
        """The claims of unfinished tasks that another worker may have while a task still hangs here: a receipt is for one of them."""
        left = [claim for job_id, claim in self._claims.items() if not self.tasks[job_id].done()]
        return [claim for claim in left if self._executor.leaves_receipt(claim)]

    def room(self, registry: Registry, *, shared: bool) -> Room:
        """How many more jobs there is room for in one batch, if `shared`, and outside of the database."""
        if self.isolated:
            return NO_ROOM
        batchable = registry.batchable_kinds if shared and self._batches.most > 1 else ()
        batch = self._batches.next_size if batchable else 0
        outside = self._max_outside - self.outside if registry.outside_kinds else 0
        return Room(
            batch,
            batchable,
            outside,
            registry.outside_kinds,
            has_suspect=any(each.is_suspect for each in self._outside.values()),
            has_doubtful=any(each.is_doubtful for each in self._outside.values()),
        )

    def start_all(self, claims: Sequence[Claim], aborted: Collection[str]) -> None:
        """Start the claimed jobs: all that may share a transaction in one task, each other job in its own.

        A job whose id is in `aborted` is ended without a run.
        """
        batch = []
        for claim in claims:
            if claim.is_batchable and claim.job_id not in aborted:
                batch.append(claim)
            else:
                self.start(claim, aborted=claim.job_id in aborted)
        if len(batch) == 1:
            self.start(batch[0], aborted=False)
        elif batch:
            self.start_batch(batch)

    def start(self, claim: Claim, *, aborted: bool) -> None:
        """Start a job in a task of its own, unless a task for it exists already; an aborted job is only ended."""
        if before := self.tasks.get(claim.job_id):
            if claim.job_id in self._returned:  # Redis knows it, and the answer is on its way
                before.add_done_callback(lambda _: self.start(claim, aborted=aborted))
            return  # this worker's own lease had run out, and it claimed the job again: the task goes on
        self._isolated = claim.job_id if claim.runs_isolated else self._isolated
        self.started += 1
        task = asyncio.create_task(self._take_to_its_end(claim, aborted=aborted))
        self.tasks[claim.job_id], self._claims[claim.job_id] = task, claim
        if claim.works_outside:
            self._outside[claim.job_id] = claim
        task.add_done_callback(lambda _: self._ended(claim))

    def cancel(self, job_id: str, why: CancelReason) -> None:
        """Cancel a job if it runs; the first reason is the one that counts."""
        job = self.jobs.get(job_id)
        if job and job_id not in self._reasons:
            self._reasons[job_id] = why
            stop(job)

    def cancel_everything(self) -> None:
        """Cancel all jobs, because the worker stops. May be called again: some code swallows a cancellation."""
        for job_id, job in self.jobs.items():
            self._reasons.setdefault(job_id, CancelReason.STOPPING)
            stop(job)

    def _ended(self, claim: Claim) -> None:
        had_slot = claim.job_id not in self._unacknowledged
        had_slot = had_slot or len(self._unacknowledged) > _MAX_WITHOUT_SLOT
        del self.tasks[claim.job_id], self._claims[claim.job_id]
        self._unacknowledged.discard(claim.job_id)
        self._returned.discard(claim.job_id)
        self._outside.pop(claim.job_id, None)
        if self._isolated == claim.job_id:
            self._isolated = ""
        if had_slot or not self.tasks:
            self._on_ended()

    async def _take_to_its_end(self, claim: Claim, *, aborted: bool) -> None:
        if aborted:
            ack = await self._executor.aborted(claim, started=False)
        else:
            ack = await self._run(claim)
        if self._frees_slot(claim, ack):
            self._unacknowledged.add(claim.job_id)
            self._on_ended()
        await self._end([claim], [ack])

    def _frees_slot(self, claim: Claim, ack: Ack) -> bool:
        """True if another job may be claimed before Redis has answered the ack. It must not be the same job, to be retried."""
        hook = self._executor.options.after_job_end  # it is a part of the job
        return ack.action == "done" and not (claim.works_outside or claim.runs_isolated or hook)

    def start_batch(self, claims: Sequence[Claim]) -> None:
        """Start jobs that share transactions, in one task. If one is cancelled from outside, the rest is handed back.

        If one of the jobs cancels the task itself, each job runs again alone.
        """
        for claim in claims:
            if claim.job_id in self.tasks:
                self.start(claim, aborted=False)
        claims = [claim for claim in claims if claim.job_id not in self.tasks]
        if not claims:
            return
        task = asyncio.create_task(self._take_batch_to_its_end(claims))
        self._batches.began(len(claims))
        self.started += len(claims)
        for claim in claims:
            self.tasks[claim.job_id], self._claims[claim.job_id] = task, claim
        task.add_done_callback(lambda _: self._batch_ended(claims))

    def _batch_ended(self, claims: Sequence[Claim]) -> None:
        self._batches.ended(len(claims))
        for claim in claims:
            del self.tasks[claim.job_id], self._claims[claim.job_id]
            self._returned.discard(claim.job_id)
        self._on_ended()

    async def _take_batch_to_its_end(self, claims: Sequence[Claim]) -> None:
        started = time.monotonic()
        job, reasons = await self._ended_run(claims)
        self._batches.learn(len(claims), time.monotonic() - started)
        if job.cancelled():
            acks = await self._batch_cancelled(claims, reasons)
        elif (error := job.exception()) is not None:
            acks = [await self._executor.broken(claim, error) for claim in claims]
        else:
            known = zip(claims, job.result(), reasons, strict=True)
            acks = [await self._unless_cancelled(*each) for each in known]
        await self._end(claims, acks)

    async def _batch_cancelled(
        self, claims: Sequence[Claim], reasons: Sequence[CancelReason | None]
    ) -> list[Ack]:
        if any(reasons):
            pairs = zip(claims, reasons, strict=True)
            return [await self._cancelled(claim, why) for claim, why in pairs]
        # one of the jobs cancelled the batch: each job then runs alone, to find out which
        return [await self._run(replace(claim, is_batchable=False)) for claim in claims]

    async def _end(self, claims: Sequence[Claim], acks: Sequence[Ack]) -> None:
        self._returned.update(ack.job_id for ack in acks if ack.action != "done")
        at_once = len(acks) > 1 or not self.jobs
        ended = await self._acker.acknowledge(acks, at_once=at_once)
        for claim, ours in zip(claims, ended, strict=True):
            if not ours:
                log.warning("ack.lease_lost", job_id=claim.job_id)
        await self._executor.after(claims)

    async def _run(self, claim: Claim) -> Ack:
        job, [why] = await self._ended_run([claim])
        if job.cancelled() and why is None:  # the job cancelled itself
            return await self._executor.broken(claim, CancelledByItself())
        if job.cancelled():
            return await self._cancelled(claim, why)
        if (error := job.exception()) is not None:
            return await self._executor.broken(claim, error)
        [ack] = job.result()
        return await self._unless_cancelled(claim, ack, why)

    async def _ended_run(
        self, claims: Sequence[Claim]
    ) -> tuple[asyncio.Task[list[Ack]], list[CancelReason | None]]:
        """Run claims to their end in a task; answers with the task, and with why each claim was cancelled meanwhile."""
        job = asyncio.create_task(self._executor.run(claims))
        stopped_by_stop(job)
        self.jobs |= dict.fromkeys((claim.job_id for claim in claims), job)
        try:
            await asyncio.wait({job})
        except asyncio.CancelledError:  # not by this worker: the program ends
            stop(job)
            raise
        finally:
            for claim in claims:
                del self.jobs[claim.job_id]
            reasons = [self._reasons.pop(claim.job_id, None) for claim in claims]
        return job, reasons

    async def _unless_cancelled(self, claim: Claim, ack: Ack, why: CancelReason | None) -> Ack:
        """The ack of a run that came to its end, unless the job was cancelled and would only be tried again by that ack."""
        spends_attempt = ack.action == "retry"
        is_undone = ack.action != "done" and why is CancelReason.ABORTED
        if why and (spends_attempt or is_undone):
            return await self._cancelled(claim, why)
        return ack

    async def _cancelled(self, claim: Claim, why: CancelReason | None) -> Ack:
        if why is CancelReason.ABORTED:
            return await self._executor.aborted(claim)
        delay = 1000 if why is CancelReason.CANCELLED else 0
        return self._executor.handed_back(claim, delay=delay)
