"""What a worker reports about itself on Redis: its signs of life, and what its jobs wait for.

A worker is asked three times whether it lives. It asks itself before each sign of life (`looks_alive`): has it polled lately?
Operators see a worker until its last sign is `SILENCE` old. And a lease that runs out counts as a crash only if its owner's
last sign is older than half a lease (`claim.lua`).
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from arq.connections import ArqRedis
from redis.asyncio import Redis
from redis.exceptions import RedisError

from ledgerq.broker.keys import renewal_key, waits_key, workers_key
from ledgerq.broker.scripts import script
from ledgerq.runtime.background_tasks import keep_going
from ledgerq.text import one_line

log = structlog.stdlib.get_logger("ledgerq.worker")

LAST_POLL = "ledgerq_alive"  # in arq's ctx: when the worker last polled its queue, time.monotonic
BEAT = 5.0  # seconds between two signs of life
SILENCE = 3 * BEAT  # seconds without a sign of life after which a worker counts as dead
_FORGOTTEN = 3600.0  # seconds without one after which a worker's name is removed
RECENT = 60  # seconds for which a note counts as current
_KEPT = 300
_MAX_TEXT = 300  # characters


@dataclass(frozen=True, slots=True)
class Wait:
    """A reason for which jobs wait, for example `lock`. `text` explains the last such wait, noted `seconds` ago."""

    reason: str
    text: str
    seconds: float


async def note_wait(redis: "Redis | ArqRedis", queue: str, reason: str, text: str) -> None:
    """Note on Redis that a job waits for something that others must fix. The last note of each reason is kept."""
    seconds, _ = await redis.time()
    note = json.dumps({"at": int(seconds), "text": text[:_MAX_TEXT]})
    async with redis.pipeline(transaction=False) as pipe:
        pipe.hset(waits_key(queue), reason, note)
        pipe.expire(waits_key(queue), _KEPT)
        await pipe.execute()


async def waits(redis: "Redis | ArqRedis", queue: str) -> list[Wait]:
    """The causes, for others to fix, for which jobs of this queue waited in the last minute: a `Wait` each, newest first."""
    now, _ = await redis.time()
    found = []
    for reason, note in (await redis.hgetall(waits_key(queue))).items():  # type: ignore[misc]
        try:
            read = json.loads(note)
            at, text = float(read["at"]), str(read["text"])
        except (ValueError, TypeError, KeyError):
            continue  # somebody edited it
        if now - at < RECENT:
            found.append(Wait(reason.decode(errors="replace"), text, max(0.0, now - at)))
    return sorted(found, key=lambda wait: wait.seconds)


def looks_alive(ctx: Mapping[Any, Any], still: float) -> bool:
    """False if the worker has not polled its queue for 30 s in which its event loop ran. True if `ctx` says nothing of its polls.

    `still`: for how many seconds the loop has been blocked; they do not count, because a long job may block it.
    """
    looked = ctx.get(LAST_POLL)
    return looked is None or time.monotonic() - looked - still < 2 * SILENCE


async def keep_beating(
    redis: "Redis | ArqRedis",
    queue: str,
    worker: str,
    alive: Callable[[], bool],
    *,
    lease: float,
) -> None:
    """Write signs of life of this worker, until cancelled; then remove the worker's name.

    They come every `BEAT` seconds, and three times in a lease at least: `claim.lua` then knows that the worker lives, even
    if the lease of one of its jobs has run out.

    Args:
        redis: the client.
        queue: its set of workers gets the signs of life.
        worker: the worker's name.
        alive: is called before each beat; if it answers False, the beat is left out.
        lease: of the worker's claims, in seconds.
    """
    interval = beat_interval(lease)

    async def beat_once() -> float:
        if alive():
            await beat(redis, queue, worker, lease=lease)
        return interval

    try:
        failed = partial(log.warning, "heartbeat.failed")
        await keep_going(beat_once, RedisError, OSError, failed=failed, longest=interval)
    finally:
        try:
            async with asyncio.timeout(2):  # else another worker removes the name later
                await redis.zrem(workers_key(queue), worker)
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("heartbeat.failed", error=one_line(error))


def beat_interval(lease: float) -> float:
    """The seconds between two signs of life of a worker whose claims have this lease: `BEAT`, or a third of a shorter lease."""
    return min(BEAT, lease / 3)


async def beat(redis: "Redis | ArqRedis", queue: str, worker: str, *, lease: float) -> None:
    """Note the time of Redis' clock beside the worker's name, in the queue's set of workers.

    If this is the first sign of life of any worker for half a lease, begin the renewal time, half a lease: the leases of
    all jobs may have run out, and `claim.lua` then gives their owners time to renew them.
    """
    await script(redis, "beat")(
        keys=[workers_key(queue), renewal_key(queue)],
        args=[worker, int(lease * 500), int(_FORGOTTEN * 1000)],
    )


async def living_workers(redis: ArqRedis, queue: str | None = None) -> list[str]:
    """The names of the workers with a sign of life in the last `SILENCE` seconds. `queue` None is the default queue."""
    seconds, microseconds = await redis.time()
    since = seconds + microseconds / 1e6 - SILENCE
    key = workers_key(queue or redis.default_queue_name)
    found = await redis.zrangebyscore(key, since, "+inf")
    return [name.decode(errors="replace") for name in found]
