"""What a worker tells of itself on Redis: that it lives, and what its jobs wait for."""

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

from ledgerq.broker.keys import waits_key, workers_key
from ledgerq.runtime.background_tasks import keep_going
from ledgerq.text import one_line

log = structlog.stdlib.get_logger("ledgerq.worker")

ALIVE = "ledgerq_alive"  # in arq's ctx: when our worker last looked at its queue, time.monotonic
BEAT = 5.0  # seconds between two signs of life
SILENCE = 3 * BEAT  # a worker not seen for so long is taken for dead
_FORGOTTEN = 3600.0
RECENT = 60  # seconds for which a note says something about now
_KEPT = 300
_MAX_SECONDS = 300  # characters of a text


@dataclass(frozen=True, slots=True)
class Wait:
    """A reason for which a job was put off, such as `lock` or `unknown_kind`; `seconds` since it last was."""

    reason: str
    text: str
    seconds: float


async def note_wait(redis: "Redis | ArqRedis", queue: str, reason: str, text: str) -> None:
    """Note that a job waits for something that is not its own fault. The last note of each reason is kept."""
    seconds, _ = await redis.time()
    note = json.dumps({"at": int(seconds), "text": text[:_MAX_SECONDS]})
    async with redis.pipeline(transaction=False) as pipe:
        pipe.hset(waits_key(queue), reason, note)
        pipe.expire(waits_key(queue), _KEPT)
        await pipe.execute()


async def waits(redis: "Redis | ArqRedis", queue: str) -> list[Wait]:
    """What jobs waited for in the last minute, the newest first."""
    now, _ = await redis.time()
    found = []
    for reason, note in (await redis.hgetall(waits_key(queue))).items():  # type: ignore[misc]
        try:
            read = json.loads(note)
            at, text = float(read["at"]), str(read["text"])
        except (ValueError, TypeError, KeyError):
            continue  # a hand wrote it
        if now - at < RECENT:
            found.append(Wait(reason.decode(errors="replace"), text, max(0.0, now - at)))
    return sorted(found, key=lambda wait: wait.seconds)


def looks_alive(ctx: Mapping[Any, Any], still: float) -> bool:
    """False if our worker has not looked at its queue for a while, not counting that its loop stood still."""
    looked = ctx.get(ALIVE)
    return looked is None or time.monotonic() - looked - still < 2 * SILENCE


async def keep_beating(
    redis: ArqRedis, worker: str, alive: Callable[[], bool], *, interval: float = BEAT
) -> None:
    """Show that this worker lives, whenever `alive` says so, until cancelled; then take its name off.

    Args:
        redis: where the queue is.
        worker: its name.
        alive: asked before each beat.
        interval: seconds between two beats. `claim.lua` knows a worker whose lease slipped to be living if it
            beats three times in a lease.
    """
    key = workers_key(redis.default_queue_name)

    async def beat_once() -> float:
        if alive():
            await beat(redis, worker)
        return min(interval, BEAT)

    try:
        failed = partial(log.warning, "heartbeat.failed")
        await keep_going(beat_once, RedisError, OSError, failed=failed, longest=interval)
    finally:
        try:
            async with asyncio.timeout(2):  # a Redis that does not answer forgets it by itself
                await redis.zrem(key, worker)
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("heartbeat.failed", error=one_line(error))


async def beat(redis: ArqRedis, worker: str) -> None:
    """One sign of life on the client's queue, by Redis' clock."""
    key, now = workers_key(redis.default_queue_name), await _now(redis)
    async with redis.pipeline(transaction=False) as pipe:
        pipe.zadd(key, {worker: now})
        pipe.zremrangebyscore(key, "-inf", now - _FORGOTTEN)
        await pipe.execute()


async def living_workers(redis: ArqRedis, queue: str | None = None) -> list[str]:
    """The workers of this queue, else of the default queue, that showed a sign of life in the last `SILENCE` seconds."""
    since = await _now(redis) - SILENCE
    key = workers_key(queue or redis.default_queue_name)
    found = await redis.zrangebyscore(key, since, "+inf")
    return [name.decode(errors="replace") for name in found]


async def _now(redis: ArqRedis) -> float:
    seconds, microseconds = await redis.time()
    return float(seconds) + float(microseconds) / 1e6
