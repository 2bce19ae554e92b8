"""For producers: put jobs on the queue, and wait for their answers.

```python
async with JobClient.open() as client:  # REDIS_URL says where
    jobs = await client.enqueue_many(CloseOrder(order_id=each.id) for each in orders)
    numbers = await results(jobs)
```
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any, Generic, NamedTuple

from arq.connections import ArqRedis
from arq.jobs import Job

from ledgerq.broker.connection import connect, require_redis
from ledgerq.broker.direct import DirectSender
from ledgerq.broker.keys import unique_key
from ledgerq.broker.own_job import OwnJob, answers
from ledgerq.broker.queue import Entry, Place, enqueue
from ledgerq.broker.settings import BrokerConfig
from ledgerq.errors import (
    IdHeld,
    InvalidRequest,
    PayloadMismatch,
    ResultNotKept,
    Undecodable,
)
from ledgerq.settings import load
from ledgerq.wire.arq_json import from_wire, payload_hash
from ledgerq.wire.envelope import UNKNOWN_ACTOR, Envelope, encode
from ledgerq.wire.payload import Payload, R, answer_of
from ledgerq.wire.queue_name import queue_key
from ledgerq.wire.request import Request, Unique, as_requests

BATCH = 500  # jobs in one round trip
AT_A_TIME = 50  # jobs prepared before the event loop, which sends the last batch, gets a turn


@dataclass(frozen=True, slots=True)
class EnqueuedJob(Generic[R]):
    """A handle on a queued job. `is_new` is False for an earlier job of the same id or unique key, and from `JobClient.job`.

    ```python
    enqueued = await client.enqueue(CloseOrder(order_id=order.id))
    number = await enqueued.result(timeout=30)
    ```
    """

    job_id: str
    is_new: bool
    _redis: ArqRedis
    queue: str  # its key on Redis
    _payload: type[Payload[R]] | None = None  # names the type of the answer; None: any

    async def result(self, *, timeout: float | None = None) -> R:  # noqa: ASYNC109 - as in arq
        """Return the job's answer, in the type of the payload's `Payload[…]`. Waits `timeout` seconds (None: no limit).

        Raises:
            JobFailed: the job was buried or cancelled.
            UnexpectedResult: the answer is not of that type; for example, the worker runs other code.
            ResultNotKept: the payload says `keep_result=0`, so only the database will have the answer.
            ResultExpired: Redis has neither the job nor its result: the time to keep it is over, or there was no such job.
            TimeoutError: the job has not ended in time.
        """
        async with asyncio.timeout(timeout):
            answer: R = (await results([self]))[0]
            return answer

    @property
    def as_arq_job(self) -> Job:
        """arq's own handle: `status()`, `info()`, `abort()`. For it, a job that is on another queue does not exist."""
        return OwnJob(self.job_id, self._redis, self.queue, from_wire)


class JobClient(DirectSender):
    """Puts each job on its queue. Make one per process and share it.

    ```python
    async with JobClient.open("redis://localhost:6379/0") as client:
        await client.enqueue(CloseOrder(order_id=order.id), job_id=f"close:{order.id}")
    ```

    `stage(…, client=client)` lets the client put a staged job on its queue right after the commit. Only workers give `kinds`
    (kind → queue; None is the default queue): staged jobs of other kinds wait for a worker that knows the kind's queue.
    """

    def __init__(self, redis: ArqRedis, kinds: Mapping[str, str | None] | None = None) -> None:
        super().__init__(redis)
        self._queue, self._kinds = redis.default_queue_name, kinds

    @classmethod
    @asynccontextmanager
    async def open(cls, where: BrokerConfig | str | None = None) -> AsyncIterator["JobClient"]:
        """Open a client; it is closed when the `async with` block ends.

        Args:
            where: the URL of Redis, or settings; None reads `REDIS_URL` and `LEDGERQ_QUEUE` from the environment.

        Raises:
            SettingError: the URL is not one of Redis, or is missing.
            Unreachable: Redis does not answer.
            RedisRefuses: Redis is too old, or refuses the login.
        """
        redis = connect(_settings(where))
        try:
            await require_redis(redis, for_worker=False)
            client = cls(redis)
            try:
                yield client
            finally:
                await client.sent()
                client.leave_the_rest()
        finally:
            await redis.aclose(close_connection_pool=True)

    async def enqueue(
        self,
        payload: Payload[R],
        *,
        job_id: str | None = None,
        delay: timedelta = timedelta(0),
        actor: str = UNKNOWN_ACTOR,
        trace_id: str | None = None,
        unique: Unique | None = None,
        queue: str | None = None,
    ) -> EnqueuedJob[R]:
        """Enqueue one job; when this returns, Redis has the job.

        Args:
            payload: what the job carries; its class names the kind.
            job_id: the idempotency key; None makes each call a new job.
            delay: how long the job waits before it may run.
            actor: who asks for the job; written to the audit log.
            trace_id: written to the audit log beside the actor.
            unique: while its window lasts, a second request of this kind and key enqueues nothing and returns the first
                job. Redis keeps these keys, for each queue apart; the database keeps those of staged jobs.
            queue: the queue for the job; None is the queue of the payload's class, or else the default queue.

        Raises:
            InvalidRequest: an argument is invalid; the error names it.
            Undecodable: `job_id` is empty, too long, or not printable.
            PayloadMismatch: a job of this id is queued, or has just ended, with another payload.
            IdHeld: another queue on the same Redis has this id.
        """
        request = Request(payload, job_id, delay, actor, trace_id, unique=unique, queue=queue)
        return (await self.enqueue_many([request]))[0]

    def job(
        self, job_id: str, payload: type[Payload[R]] | None = None, *, queue: str | None = None
    ) -> EnqueuedJob[R]:
        """A handle on the job of this id, for its result. Redis is not asked whether the job is there.

        Args:
            job_id: the job's id.
            payload: the class of its payload, which names the type of the result; None: the result comes as JSON has it.
            queue: the job's queue; None is the queue of the payload's class, or else the default queue.
        """
        named = queue if queue is not None or payload is None else payload.queue
        return EnqueuedJob(job_id, False, self._redis, queue_key(named, self._queue), payload)

    async def enqueue_many(
        self, requests: Iterable[Request | Payload[Any]]
    ) -> list[EnqueuedJob[Any]]:
        """Enqueue many jobs, up to 500 in each round trip; the result is in the order of the requests.

        While one batch is sent, the next is prepared: a generator of requests need not keep them all in memory.
        Raises as `enqueue` does. Jobs of earlier round trips, and some of the same one, are then on the queue nevertheless.
        """
        asked, jobs = iter(requests), list[EnqueuedJob[Any]]()
        batch = await _ready(asked, self._queue)
        while len(batch) == BATCH:
            sending = asyncio.create_task(self._send(batch))
            try:
                batch = await _ready(asked, self._queue)
            finally:
                jobs += await sending
        return jobs + await self._send(batch) if batch else jobs

    def queue_of(self, request: Request) -> str | None:
        """The queue's key for the request's job; None if the request names none and `kinds`, if given, lacks its kind."""
        named, kind = request.queue_name, request.payload.kind
        if named is None and self._kinds is not None:
            return queue_key(self._kinds[kind], self._queue) if kind in self._kinds else None
        return queue_key(named, self._queue)

    async def _send(self, batch: Sequence["_Ready"]) -> list[EnqueuedJob[Any]]:
        """Send a batch, with one round trip for each queue."""
        jobs: dict[int, EnqueuedJob[Any]] = {}
        for queue in dict.fromkeys(each.queue for each in batch):
            asked = [n for n, each in enumerate(batch) if each.queue == queue]
            places = await enqueue(self._redis, queue, [batch[n].entry for n in asked])
            jobs |= {
                n: self._placed(batch[n], place) for n, place in zip(asked, places, strict=True)
            }
        return [jobs[n] for n in range(len(batch))]

    def _placed(self, asked: "_Ready", place: Place) -> EnqueuedJob[Any]:
        if place.holder is not None:
            raise IdHeld(asked.entry.job_id, place.holder)
        if place.job_id == asked.entry.job_id and not place.is_new:
            _check_same(place.job_id, asked.request.envelope, place.content)
        payload = type(asked.request.payload)
        return EnqueuedJob(place.job_id, place.is_new, self._redis, asked.queue, payload)


def _settings(where: BrokerConfig | str | None) -> BrokerConfig:
    if isinstance(where, BrokerConfig):
        return where
    return load(BrokerConfig) if where is None else load(BrokerConfig, redis_url=where)


async def results(jobs: Sequence[EnqueuedJob[Any]]) -> list[Any]:
    """Wait without a time limit until all of the jobs have ended; returns their answers in the order of `jobs`.

    Raises:
        JobFailed: a job was buried or cancelled. Raised for the first that is found, even if other jobs still run.
        UnexpectedResult: an answer is not of the type that its payload names.
        ResultNotKept: a payload says `keep_result=0`. Raised at once.
        ResultExpired: a job is not queued, and its result is not kept any more.
    """
    for job in jobs:
        if job._payload is not None and job._payload.keep_result == 0:  # noqa: SLF001 - ours
            raise ResultNotKept(job.job_id, job._payload.kind)  # noqa: SLF001 - ours
    found: dict[ArqRedis, dict[tuple[str, str], Any]] = {job._redis: {} for job in jobs}  # noqa: SLF001 - ours
    pause = 0.01
    while True:
        for redis, ended in found.items():
            wanted = [(job.job_id, job.queue) for job in jobs if job._redis is redis]  # noqa: SLF001 - ours
            missing = [each for each in dict.fromkeys(wanted) if each not in ended]
            for start in range(0, len(missing), BATCH):
                ended.update(await answers(redis, missing[start : start + BATCH]))
        if all((job.job_id, job.queue) in found[job._redis] for job in jobs):  # noqa: SLF001 - ours
            break
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, 0.5)
    return [_typed(job, found[job._redis][job.job_id, job.queue]) for job in jobs]  # noqa: SLF001 - ours


def _typed(job: EnqueuedJob[Any], answer: Any) -> Any:
    payload = job._payload  # noqa: SLF001 - ours
    return answer if payload is None else answer_of(job.job_id, payload, answer)


class _Ready(NamedTuple):
    """A checked request, ready to be sent."""

    request: Request
    queue: str
    entry: Entry


async def _ready(asked: Iterator[Request | Payload[Any]], queue: str) -> list[_Ready]:
    """Prepare the next requests, up to BATCH of them. The event loop gets a turn after each AT_A_TIME."""
    batch: list[_Ready] = []
    while True:
        some = [_entry(request, queue) for request in as_requests(islice(asked, AT_A_TIME))]
        batch += some
        if len(some) < AT_A_TIME or len(batch) == BATCH:
            return batch
        await asyncio.sleep(0)


def _entry(request: Request, default: str) -> _Ready:
    if request.ordering_key is not None:
        raise InvalidRequest("ordering_key", "only staged jobs have an order; use ledgerq.staging")
    job_id, kind = request.checked_id(), request.payload.kind
    queue = queue_key(request.queue_name, default)
    envelope = Envelope(kind, {}, request.actor, request.trace_id)
    unique, window = "", 0
    if request.unique is not None:
        envelope.unique = request.unique.key
        unique = unique_key(queue, kind, request.unique.key)
        window = max(1, _milliseconds(request.unique.window))
    body = encode(envelope, queue=queue, fields=request.fields)
    return _Ready(request, queue, Entry(job_id, body, _milliseconds(request.delay), unique, window))


def _check_same(job_id: str, wanted: Envelope, there: bytes) -> None:
    """Refuse another payload for an id that a job has already; `there` is that job's body or kept result."""
    try:
        known = payload_hash(there)
    except Undecodable:
        return  # not written by ledgerq, so there is no hash to compare
    if known != wanted.payload_hash.hex():
        raise PayloadMismatch(job_id)


def _milliseconds(delay: timedelta) -> int:
    return max(0, int(delay.total_seconds() * 1000)) if delay else 0
