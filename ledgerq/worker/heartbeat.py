"""The worker's heartbeat, in a thread with an event loop of its own: a job that blocks the other loop does not stop it.

renew    renew the leases of the running jobs, and write the worker's signs of life
watch    watch the loop of the jobs: while a job blocks the loop, log the job and its stack
give up  hand all jobs back to the queue if a job blocks the loop for longer than it may take. The blocking job
         has spent an attempt, the others have not. Then the process ends, so that it is started again
"""

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from types import FrameType
from typing import Any, Protocol, TypeAlias

import structlog
from arq.connections import ArqRedis
from redis.exceptions import RedisError

from ledgerq.broker.claims import Ack
from ledgerq.broker.many_queues import ServedQueues, SomeQueuesFailed
from ledgerq.broker.presence import beat_interval, keep_beating, looks_alive, note_wait
from ledgerq.runtime.background_tasks import BackgroundTasks, keep_going
from ledgerq.runtime.ending import leave_at_once
from ledgerq.runtime.forks import end_in_children
from ledgerq.runtime.lag import JOB, Lag, Stall, watched
from ledgerq.text import cut_end, one_line
from ledgerq.worker.active_jobs import ActiveJobs, CancelReason
from ledgerq.worker.processor import PROCESSOR, Processor
from ledgerq.worker.renewals import Renewals

log = structlog.stdlib.get_logger("ledgerq.worker")

_MAX_STACK = 4_000  # characters of a stack in the log
_TOLD_EVERY = 1.0  # seconds between two notes of what jobs wait for
_JOIN = 2.0  # seconds for the thread to end

# of a job that waits for something that others must fix
QueueAndReason: TypeAlias = tuple[str, str]


@dataclass(slots=True)
class Heartbeat:
    """Renews the leases of a worker's jobs, and writes its signs of life, in a thread, from `start` to `stop`.

    Args:
        broker: makes a broker with the worker's token; called in the thread, to which its connections then belong.
        active: answers with the ids of the jobs that the worker has.
        on_taken: is called, in the worker's loop, with the id of each job that another worker has by now.
        alive: called with the seconds for which the worker's loop has stood still; False: no sign of life is written.
        blocked_after: seconds for which the loop is blocked before the log names the job.
        on_handed_back: is called, in the heartbeat's thread, when the jobs were given back to the queue.
        most: answers with the seconds for which a job of this kind (None: unknown) may block the loop before all are given back.
        waits: (queue, reason) → text, of jobs that wait for something that others must fix; noted on Redis for health.
        is_burst: the worker ends when nothing is left to do. Its first sign of life comes one interval late, so that a
            short run has none.
    """

    broker: Callable[[], ServedQueues]
    active: Callable[[], Collection[str]]
    on_taken: Callable[[str], None]
    alive: Callable[[float], bool]
    on_handed_back: Callable[[], None]
    blocked_after: float
    most: Callable[[str | None], float]
    waits: dict[QueueAndReason, str]
    is_burst: bool = False
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _thread: threading.Thread | None = None
    _own: asyncio.AbstractEventLoop | None = None
    _ended: asyncio.Event | None = None
    _answered: float = 0.0  # when the watched loop last answered
    _watched_thread: int = 0
    _handing_back: Callable[[Stall], Coroutine[Any, Any, None]] | None = None

    def start(self) -> None:
        """Start the heartbeat's thread. Must be called in the thread of the worker's loop."""
        self._answered, self._watched_thread = time.monotonic(), threading.get_ident()
        self._thread = threading.Thread(target=self._run, name="ledgerq-heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop beating, and wait for the thread to end, at most 2 s."""
        if self._own and self._ended and not self._own.is_closed():
            self._own.call_soon_threadsafe(self._ended.set)
        if self._thread:
            self._thread.join(_JOIN)

    def _run(self) -> None:
        try:
            asyncio.run(self._beat())
        except Exception:
            log.exception("heartbeat.stopped")

    async def _beat(self) -> None:
        self._own, self._ended = asyncio.get_running_loop(), asyncio.Event()
        end_in_children(self._own)
        broker = self.broker()
        self._handing_back = partial(self._hand_back, broker)
        renewal_failed = partial(log.warning, "lease.renewal_failed")
        not_reported = partial(log.debug, "waits.not_reported")
        beside, renewals = BackgroundTasks(), Renewals(broker, self.active, self._taken)
        for work in (
            # redis-py raises more than its own errors on a connection that was cut
            keep_going(
                renewals.run_once,
                Exception,
                failed=renewal_failed,
                longest=broker.lease_settings.lease / 3,
            ),
            keep_going(partial(self._tell_waits, broker), RedisError, OSError, failed=not_reported),
            *(self._show_life(broker, queue) for queue in broker.queues),
            self._watch(broker, renewals),
        ):
            beside.start(work)
        try:
            await self._ended.wait()
        finally:
            # the sign of life is being taken off
            await beside.end(_JOIN * 0.75, again_after=_JOIN / 2)
            await broker.close()

    async def _show_life(self, broker: ServedQueues, queue: str) -> None:
        lease = broker.lease_settings.lease
        if self.is_burst:
            await asyncio.sleep(beat_interval(lease))
        await keep_beating(broker.redis, queue, broker.worker, self._is_alive, lease=lease)

    async def _tell_waits(self, broker: ServedQueues) -> float:
        while self.waits:
            (queue, reason), text = self.waits.popitem()
            await note_wait(broker.redis, queue, reason, text)
        return _TOLD_EVERY

    def _is_alive(self) -> bool:
        still = self._stood_still()
        return still < self.most(None) and self.alive(still)

    def _stood_still(self) -> float:
        return time.monotonic() - self._answered

    def _taken(self, job_id: str) -> None:
        self._loop.call_soon_threadsafe(self.on_taken, job_id)

    async def _watch(self, broker: ServedQueues, renewals: Renewals) -> None:
        """Watch the worker's loop until cancelled: log a job that blocks the loop, and hand the jobs back in time."""
        pause = min(0.5, self.blocked_after / 4)
        lag, stall, step = watched(self._loop), None, _Activity()
        while True:
            self._loop.call_soon_threadsafe(self._answer)
            asked = time.monotonic()
            await asyncio.sleep(pause)
            now = time.monotonic()
            if now - asked > pause + 1:  # the whole process stood still: no job's fault
                self._answered = now
                renewals.process_stood_still(now - asked - pause)
            found = self._activity(lag)
            answered = self._answered > asked - pause
            if answered or not found.is_same(step):
                stall, step = None, replace(found, since=max(self._answered, asked))
                continue
            if now - step.since < max(self.blocked_after, 2 * pause):
                continue
            if stall is None:
                stall = Stall(step.since, now, step.job.get("job_id"))
                lag.stalls.append(stall)
                self._name(stall, step.job)
            stall.until = now
            if now - step.since > self.most(step.job.get("kind")):
                await self._hand_back(broker, stall)

    def _answer(self) -> None:
        self._answered = time.monotonic()

    def _activity(self, lag: Lag) -> "_Activity":
        """What the worker's loop does now, and for which job: it may run the job's handler or a task of the handler."""
        frame = self._frame()
        while frame is not None and frame.f_code is not asyncio.Handle._run.__code__:  # noqa: SLF001 - asyncio tells nobody
            frame = frame.f_back
        handle = frame.f_locals.get("self") if frame else None
        context = getattr(handle, "_context", None)
        return _Activity(handle, lag.at_work or (context.get(JOB) if context else None) or {})

    def _frame(self) -> FrameType | None:
        return sys._current_frames().get(self._watched_thread)  # noqa: SLF001 - there is no other way

    def _name(self, stall: Stall, job: Mapping[str, Any]) -> None:
        """Log which job blocks the loop, and at which place in its code."""
        log.error(
            "event_loop.blocked",
            **job,
            seconds=round(stall.until - stall.since, 1),
            problem="the event loop stands still: await what is slow, or run it in asyncio.to_thread()",
            stack=cut_end("".join(traceback.format_stack(self._frame())), _MAX_STACK),
        )

    def hand_back_now(self) -> None:
        """Hand back all jobs, because the process ends while its loop is blocked. Called from another thread."""
        stall = Stall(
            self._answered, time.monotonic(), self._activity(watched(self._loop)).job.get("job_id")
        )
        if self._own and self._handing_back:
            with suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(self._handing_back(stall), self._own).result(_JOIN)

    async def _hand_back(self, broker: ServedQueues, stall: Stall) -> None:
        """Hand all jobs back. The blocking job has spent an attempt, the others none.

        If the blocking job is not known, each job has an interruption counted. A worker that is still blocked is
        useless, and its jobs keep rows locked: if the worker owns its process, the process ends.
        """
        seconds = round(stall.until - stall.since)
        error = f"blocked the event loop for {seconds} s"
        note = {"worker": broker.worker, "error": error, "blocked": True}
        acks = [
            Ack(job_id, "retry", note=note)
            if job_id == stall.job_id
            else Ack(job_id, "release" if stall.job_id else "interrupt")
            for job_id in sorted(self.active())
        ]
        try:
            handed_back = sum(await broker.acknowledge(acks)) if acks else 0
        except SomeQueuesFailed as failed:
            handed_back = sum(failed.answers.values())
            log.warning("event_loop.hand_back_failed", error=one_line(failed))
        except Exception as failure:  # noqa: BLE001 - redis-py raises more than its own errors
            log.warning("event_loop.hand_back_failed", error=one_line(failure))
            return
        if handed_back:
            log.error(
                "event_loop.jobs_handed_back",
                jobs=handed_back,
                job_id=stall.job_id,
                seconds=seconds,
            )
        self.on_handed_back()


@dataclass(frozen=True, slots=True)
class _Activity:
    """What an event loop does, and for which job, since a moment (time.monotonic) at which this was seen."""

    handle: object = None
    job: Mapping[str, Any] = field(default_factory=dict)
    since: float = 0.0

    def is_same(self, other: "_Activity") -> bool:
        """True if the loop still does what it did in the other step, for the job of that step."""
        return self.handle is other.handle and self.job.get("job_id") == other.job.get("job_id")


class Owner(Protocol):
    """The attributes of the worker that the heartbeat uses."""

    tasks: dict[str, asyncio.Task[Any]]
    functions: dict[str, Any]
    ctx: dict[Any, Any]
    owns_process: bool
    blocked_after: float
    hand_back_after: float
    waits: dict[QueueAndReason, str]
    burst: bool

    @property
    def pool(self) -> ArqRedis:
        """The worker's connections to Redis. The heartbeat opens its own connections to that server."""


def heartbeat_of(worker: Owner, broker: ServedQueues, active: ActiveJobs) -> Heartbeat:
    """The heartbeat of this worker. It goes on even if jobs block the worker's loop."""
    pool = worker.pool
    return Heartbeat(
        lambda: broker.twin(pool),
        lambda: list(worker.tasks),
        lambda job_id: active.cancel(job_id, CancelReason.TAKEN),
        lambda still: looks_alive(worker.ctx, still),
        lambda: leave_at_once(1) if worker.owns_process else None,
        blocked_after=worker.blocked_after,
        most=partial(_longest_block, worker),
        waits=worker.waits,
        is_burst=worker.burst,
    )


def _longest_block(worker: Owner, kind: str | None) -> float:
    processor: Processor | None = worker.ctx.get(PROCESSOR)
    limit = processor.time_limit(kind) if processor and kind else None
    limit = limit or getattr(worker.functions.get(kind or ""), "timeout_s", None)  # of arq's
    if limit is None:
        return worker.hand_back_after
    least = processor.policy.timeout if processor else 0  # to end the process is hard on others
    return min(max(limit, least) + worker.blocked_after, worker.hand_back_after)
