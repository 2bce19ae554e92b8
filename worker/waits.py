"""What jobs wait for, noted by workers for a short while, so that health can name it."""

import json
from dataclasses import dataclass

from arq.connections import ArqRedis
from redis.asyncio import Redis

from worker.keys import waits_key

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
