"""The worker's heartbeat, in a thread with an event loop of its own: a job that blocks the other loop does not stop it.

renew    the leases of the jobs that run, and the worker's sign of life
watch    the loop of the jobs: one that stands still is named in the log with its stack, while it lasts
part     from jobs whose loop has stood still for longer than any job may take: whoever blocks it has spent an
         attempt, the others are handed back and pay nothing
"""

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog
from arq.connections import ArqRedis
from redis.exceptions import RedisError

from jobs.lag import Stall, watched
from jobs.text import cut_end, printable
from worker.broker import Broker, Ending, Lease
from worker.forks import end_in_children
from worker.health import BEAT, keep_beating, looks_alive
from worker.running import Running, Why
from worker.waits import note_wait

if TYPE_CHECKING:
    from worker.engine import JobWorker

log = structlog.stdlib.get_logger("ledgerq.worker")

_MAX_STACK = 4_000  # characters of a stack in the log
_TOLD_EVERY = 1.0  # seconds between two notes of what jobs wait for
_JOIN = 2.0  # seconds for the thread to end


@dataclass(slots=True)
class Heart:
    """Beats for one worker, from `start` to `stop`.

    Args:
        broker: makes a broker of the worker's own token; called in the thread, whose loop its connections belong to.
        running: the ids of the jobs that the worker has.
        on_taken: is told, in the worker's loop, of each job that somebody else has by now.
        alive: whether the worker looks at its queue, given for how many seconds its loop has stood still.
        blocked_after: seconds of standing still that are worth a line in the log.
        most: seconds of standing still after which jobs are parted from.
    """

    broker: Callable[[], Broker]
    running: Callable[[], Collection[str]]
    on_taken: Callable[[str], None]
    alive: Callable[[float], bool]
    blocked_after: float
    most: float
    _waits: dict[str, str] = field(default_factory=dict)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _thread: threading.Thread | None = None
    _own: asyncio.AbstractEventLoop | None = None
    _ended: asyncio.Event | None = None
    _answered: float = 0.0  # when the watched loop last answered
    _watched_thread: int = 0

    def start(self) -> None:
        """Begin to beat. Must be called in the thread of the worker's loop."""
        self._answered, self._watched_thread = time.monotonic(), threading.get_ident()
        self._thread = threading.Thread(target=self._run, name="ledgerq-heart", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop beating; waits for the thread for a moment."""
        if self._own and self._ended and not self._own.is_closed():
            self._own.call_soon_threadsafe(self._ended.set)
        if self._thread:
            self._thread.join(_JOIN)

    def note_wait(self, reason: str, text: str) -> None:
        """A job waits for what others have to mend: health is to name it."""
        self._waits[reason] = text

    def _run(self) -> None:
        try:
            asyncio.run(self._beat())
        except Exception:
            log.exception("worker.heart_stopped")

    async def _beat(self) -> None:
        self._own, self._ended = asyncio.get_running_loop(), asyncio.Event()
        end_in_children(self._own)
        broker = self.broker()
        loops = [
            asyncio.create_task(self._renew(broker)),
            asyncio.create_task(self._watch(broker)),
            asyncio.create_task(self._show_life(broker)),
            asyncio.create_task(self._tell_waits(broker)),
        ]
        try:
            await self._ended.wait()
        finally:
            for each in loops:
                each.cancel()
            await asyncio.wait(loops, timeout=_JOIN / 2)
            await broker.close()

    async def _show_life(self, broker: Broker) -> None:
        redis = ArqRedis(broker.redis.connection_pool, default_queue_name=broker.queue)
        interval = min(BEAT, broker.terms.lease / 3)
        await keep_beating(redis, broker.worker, self._is_alive, interval=interval)

    async def _tell_waits(self, broker: Broker) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(_TOLD_EVERY)
            noted, self._waits = self._waits, {}
            try:
                for reason, text in noted.items():
                    await note_wait(broker.redis, broker.queue, reason, text)
            except (RedisError, OSError) as error:
                log.debug("worker.waits_not_told", error=str(error))

    def _is_alive(self) -> bool:
        still = self._stood_still()
        return still < self.most and self.alive(still)

    def _stood_still(self) -> float:
        return time.monotonic() - self._answered

    async def _renew(self, broker: Broker) -> None:
        """At a third of the lease, until cancelled."""
        while True:
            await asyncio.sleep(broker.terms.lease / 3)
            try:
                held = sorted(self.running())
                for job_id, lease in (await broker.renew(held)).items():
                    if lease is Lease.TAKEN and job_id in self.running():
                        log.warning("worker.lease_lost", job_id=job_id)
                        self._loop.call_soon_threadsafe(self.on_taken, job_id)
            except Exception as error:  # noqa: BLE001 - redis-py has more than its own on a cut connection
                log.warning("worker.renewal_missed", error=str(error))

    async def _watch(self, broker: Broker) -> None:
        """Ask the other loop for an answer, again and again, until cancelled."""
        pause = min(0.5, self.blocked_after / 4)
        lag, stall = watched(self._loop), None
        while True:
            self._loop.call_soon_threadsafe(self._answer)
            await asyncio.sleep(pause)
            still = self._stood_still()
            if still < max(self.blocked_after, 2 * pause):
                stall = None
                continue
            if stall is None:
                stall = Stall(self._answered, time.monotonic())
                lag.stalls.append(stall)
                self._name(stall, lag.at_work)
            stall.until = time.monotonic()
            if still > self.most:
                await self._part(broker, stall)

    def _answer(self) -> None:
        self._answered = time.monotonic()

    def _name(self, stall: Stall, at_work: Mapping[str, Any] | None) -> None:
        """Say in the log which job it is, and where in its code."""
        stall.job_id = (at_work or {}).get("job_id")
        frame = sys._current_frames().get(self._watched_thread)  # noqa: SLF001 - there is no other way
        stack = "".join(traceback.format_stack(frame)) if frame else ""
        log.error(
            "worker.blocked",
            **(at_work or {}),
            seconds=round(self._stood_still(), 1),
            problem="the event loop stands still: await what is slow, or run it in asyncio.to_thread()",
            stack=cut_end(stack, _MAX_STACK),
        )

    async def _part(self, broker: Broker, stall: Stall) -> None:
        """Whoever blocks has spent an attempt; nobody knows who if the handler's own task does it, so all are counted."""
        seconds = round(self._stood_still())
        note = {"worker": broker.worker, "error": f"blocked the event loop for {seconds} s"}
        held = sorted(self.running())
        endings = [
            Ending(job_id, "retry", note=note)
            if job_id == stall.job_id
            else Ending(job_id, "release" if stall.job_id else "interrupt")
            for job_id in held
        ]
        try:
            parted = sum(await broker.finish(endings)) if endings else 0
        except Exception as error:  # noqa: BLE001 - as above
            log.warning("worker.handing_back_failed", error=printable(str(error)))
            return
        if parted:
            log.error("worker.parted_from_jobs", jobs=parted, job_id=stall.job_id, seconds=seconds)


def heart_of(worker: "JobWorker", broker: Broker, running: Running) -> Heart:
    """The heartbeat of this worker, which goes on whatever jobs do to its loop."""
    pool = worker.pool
    return Heart(
        lambda: Broker.beside(pool, worker.queue_name, worker.name, worker.terms, broker.token),
        lambda: list(worker.tasks),
        lambda job_id: running.cancel(job_id, Why.TAKEN),
        lambda still: looks_alive(worker.ctx, still),
        blocked_after=worker.blocked_after,
        most=worker.parts_after,
    )
