"""The flow of jobs, on one screen. A single delivery is a group of one.

1. read      check each delivery: its body, its kind, its payload by the kind's payload class
2. group     jobs of a kind that shares transactions go together, each other job by itself. How many come here together is
             decided before (`ledgerq.worker.sharing`)
3. outside   call the `outside` function of a kind that has one: no transaction is open, and its steps are recorded. A job
             that has a receipt calls nothing, and goes on to 5; one without its outbox row is `Dropped` here
4. open      open the transaction: all that follows commits together, or nothing does
5. receipt   insert a receipt for each job. A job that has one already has ended: it runs alone afterwards, and is
             answered with a `Duplicate`
6. staged    look for the outbox rows of jobs that their producer put on the queue itself: a job without its row does not
             exist, and is `Dropped`
7. handle    call each job's handler, behind a fence; its rows go to the database and the audit log
8. end       write the results into the receipts, and delete the outbox rows of staged jobs
9. commit    at the end of the transaction; after a conflict with another one, again from 4
10. decide   split a group that failed, until the bad job is alone; the other jobs commit. For the
             bad job, `ledgerq.execution.retry` decides: it is tried again or buried
"""

import time
from asyncio import CancelledError
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from ledgerq.database.engine import Sessions
from ledgerq.database.fence import SharesState
from ledgerq.database.session import LedgerqSession
from ledgerq.database.sqlstate import is_interruption
from ledgerq.database.transaction import in_transaction
from ledgerq.database.turns import turn
from ledgerq.errors import HeldUp, NotStaged, PayloadMismatch, TimedOut, WorkerLost
from ledgerq.execution.dead_letter import bury
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.handlers import handle_alone, handle_together
from ledgerq.execution.outcome import Buried, Completed, Dropped, Duplicate, Outcome
from ledgerq.execution.outside import answered, recorded_at
from ledgerq.execution.registry import Job, Registry
from ledgerq.execution.retry import Policy, decide, decisive, require_not_blocked
from ledgerq.runtime.cancellation import is_stopped, time_limit, told_to_stop
from ledgerq.runtime.lag import stalled_by_others
from ledgerq.store import inbox, outbox
from ledgerq.store.tables import JobState
from ledgerq.wire.envelope import check_job_id
from ledgerq.wire.result import storable_result

log = structlog.stdlib.get_logger("ledgerq.jobs")

Outcomes = dict[str, Outcome]  # by the ids of the jobs


async def process(
    deliveries: Sequence[Delivery], registry: Registry, sessions: Sessions, policy: Policy
) -> list[Outcome]:
    """Process deliveries; answers with their outcomes, in the order of the deliveries.

    Raises nothing but a cancellation, which rolls the open transaction back.
    """
    first: dict[str, Delivery] = {}
    for delivery in deliveries:
        first.setdefault(delivery.job_id, delivery)
    outcomes = await _Flow(registry, sessions, policy).process(first.values())
    return [
        outcomes[delivery.job_id]
        if delivery is first[delivery.job_id]
        else (await process([delivery], registry, sessions, policy))[0]  # twice in the list
        for delivery in deliveries
    ]


async def conclude(
    error: BaseException, delivery: Delivery, sessions: Sessions, policy: Policy
) -> Outcome:
    """Decide by the policy what becomes of a job that failed with `error`. If it is given up, its dead letter is written here."""
    if isinstance(error, NotStaged):
        return Dropped()
    outcome = decide(error, delivery, policy)
    if isinstance(outcome, Buried) and delivery.attempt > 1 and not delivery.recorded_at:
        # it failed before its steps were read
        delivery.recorded_at = await recorded_at(sessions, delivery)
        outcome = decide(error, delivery, policy)
    if isinstance(outcome, Buried):
        return await bury(delivery, outcome, sessions, policy)
    return outcome


@dataclass(frozen=True, slots=True)
class _Flow:
    registry: Registry
    sessions: Sessions
    policy: Policy

    async def process(self, deliveries: Iterable[Delivery]) -> Outcomes:
        """Process deliveries of different jobs. Those that can't be read are decided on last, to delay no other job."""
        jobs, unread, outcomes = [], [], Outcomes()
        for delivery in deliveries:
            try:
                jobs.append(self.read(delivery))
            except BaseException as error:  # noqa: BLE001 - the payload's own validators run there
                unread.append((error, delivery))
        for group in self.group(jobs):
            outcomes |= await self.run(group)
        for why, delivery in unread:
            outcomes[delivery.job_id] = await self.conclude(why, delivery)
        return outcomes

    def read(self, delivery: Delivery) -> Job[Any]:
        check_job_id(delivery.job_id)
        works_outside = delivery.envelope.kind in self.registry.outside_kinds
        allowed = self.policy.max_crashes * (self.policy.outside_factor if works_outside else 1)
        if delivery.crashes >= allowed and delivery.envelope.kind in self.registry:
            raise WorkerLost(delivery.crashes)
        if not works_outside:  # else when its steps are known
            require_not_blocked(delivery, self.policy)
        return self.registry.resolve(delivery)

    def group(self, jobs: Sequence[Job[Any]]) -> list[list[Job[Any]]]:
        """Group first deliveries of a kind that shares transactions; each other job is a group of its own."""
        groups: dict[str, list[Job[Any]]] = {}
        alone = []
        for job in jobs:
            if job.delivery.is_first and self.registry.shares_commits(job.kind):
                groups.setdefault(job.kind.name, []).append(job)
            else:
                alone.append([job])
        return [*groups.values(), *alone]

    async def run(self, jobs: Sequence[Job[Any]]) -> Outcomes:
        """Run jobs in one transaction, or in smaller groups if that fails; answers with their outcomes.

        The time limit of one job of the kind holds for the whole transaction.
        """
        seconds, started = jobs[0].kind.timeout or self.policy.timeout, time.monotonic()
        stalled = stalled_by_others("" if len(jobs) > 1 else jobs[0].id)
        limit = time_limit(seconds)
        try:
            async with limit:
                work = self._outside_first if jobs[0].kind.outside else self._in_one_transaction
                outcomes = await work(jobs)
        except BaseException as error:  # every error of a job is decided on here, SystemExit too
            if told_to_stop(error):
                raise
            if is_stopped():  # the handler may have made another error of the cancellation
                raise CancelledError from error
            if limit.expired():
                error = late(seconds, stalled(started), time.monotonic() - started)
            return await self._after_failure(error, jobs)
        for job in jobs:
            if job.id not in outcomes:  # the job had ended before
                outcomes |= await self.run([job])
        return outcomes

    async def _outside_first(self, jobs: Sequence[Job[Any]]) -> Outcomes:
        """Call the jobs' `outside` function, then the handlers. Many such jobs may come to their transaction at once."""
        ready = [await answered(self.sessions, job, self.policy) for job in jobs]
        async with turn(self.sessions):
            return await self._in_one_transaction(ready)

    async def _in_one_transaction(self, jobs: Sequence[Job[Any]]) -> Outcomes:
        alone = len(jobs) == 1

        async def once(session: LedgerqSession) -> Outcomes:
            fresh = await inbox.insert_receipts(session, [_receipt(job) for job in jobs])
            work = [job for job in jobs if job.id in fresh]
            if not work:
                # `run` runs each job again, alone, for which there is no outcome here
                return {jobs[0].id: await _duplicate(session, jobs[0])} if alone else {}
            if rows := {job.id: row for job in work if (row := job.envelope.row) is not None}:
                await outbox.require_rows(session, rows)
            if alone:
                answers = [await handle_alone(session, work[0])]
            else:
                answers = list(await handle_together(session, work))
            results = {
                job.id: storable_result(answer, self.policy.max_result, job.kind.payload)
                for job, answer in zip(work, answers, strict=True)
            }
            await inbox.keep_results(session, results)
            staged = [job.id for job in work if job.envelope.staged]
            if alone and staged:
                await outbox.remove_last(session, *staged)
            elif staged:
                await outbox.remove(session, staged)
            return {job_id: Completed(result) for job_id, result in results.items()}

        with inbox.requiring_receipts():
            return await in_transaction(self.sessions, once)

    async def _after_failure(self, error: BaseException, jobs: Sequence[Job[Any]]) -> Outcomes:
        """Decide on jobs whose transaction was rolled back.

        A group runs again in halves, to find the bad job; but not if the connection to the database was lost.
        """
        if len(jobs) == 1 or _is_the_databases(error):  # smaller groups would not help
            return {job.id: await self.conclude(error, job.delivery) for job in jobs}
        kind, middle = jobs[0].kind, len(jobs) // 2
        if isinstance(error, SharesState):
            self.registry.keep_apart(kind.name)
            log.warning("kind.batching_disabled", kind=kind.name, because=str(error))
        outcomes = Outcomes()
        for half in (jobs[:middle], jobs[middle:]):
            # the first half may have called `keep_apart`
            shared = self.registry.shares_commits(kind)
            for group in [half] if shared else [[job] for job in half]:
                outcomes |= await self.run(group)
        return outcomes

    async def conclude(self, error: BaseException, delivery: Delivery) -> Outcome:
        """Decide on a failed job by the policy; a burial has a transaction of its own."""
        return await conclude(error, delivery, self.sessions, self.policy)


def late(seconds: float, stalled: float, lasted: float) -> TimedOut | HeldUp:
    """The error to report of a job whose time limit is over: `HeldUp` if it had less than its `seconds`, else `TimedOut`.

    Args:
        seconds: the time limit.
        stalled: seconds for which other jobs blocked the event loop.
        lasted: seconds since the job's start.
    """
    return HeldUp(stalled) if lasted - stalled < seconds else TimedOut(seconds)


async def _duplicate(session: LedgerqSession, job: Job[Any]) -> Duplicate:
    ended = await inbox.get_receipt(session, job.id)
    payload_hash = job.envelope.payload_hash
    known = ended.payload_hash or payload_hash  # a receipt of an unread job has no hash
    if ended.state is not JobState.CANCELLED and known != payload_hash:
        raise PayloadMismatch(job.id)
    await outbox.remove(session, [job.id])
    return Duplicate(ended.state, ended.result)


def _receipt(job: Job[Any]) -> tuple[str, str, bytes, int]:
    return job.id, job.kind.name, job.envelope.payload_hash, job.delivery.attempt


def _is_the_databases(error: BaseException) -> bool:
    try:
        return is_interruption(decisive(error))
    except BaseException:  # noqa: BLE001 - the error's own code runs here
        return False
