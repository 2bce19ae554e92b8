"""What Redis must be and allow: its version, the commands and the keys. Asked at the start of a worker, and by health."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from arq.connections import ArqRedis
from redis.exceptions import NoPermissionError, NoScriptError, RedisError, ResponseError

from worker.keys import (
    cancel_key,
    epoch_key,
    lane_key,
    running_key,
    trouble_key,
    waits_key,
    workers_key,
)
from worker.scripts import script

OLDEST = 7  # the scripts use flags that older ones do not know
_PROBE = "ledgerq-probe"  # a job id that nobody has


@dataclass(frozen=True, slots=True)
class Missing:
    """What this Redis lacks, and the cure. `passing` if it may mend itself, and a worker can begin without it."""

    problem: str
    cure: str
    passing: bool = False


async def server(redis: ArqRedis) -> Mapping[str, Any]:
    """What INFO says of the server; nothing where it is forbidden."""
    try:
        found: Mapping[str, Any] = await redis.info("server")
    except ResponseError:
        return {}
    return found


def unfit(about: Mapping[str, Any]) -> Missing | None:
    """Why a server of that kind can't be used."""
    version = str(about.get("redis_version", ""))
    if version and _major(version) < OLDEST:
        return Missing(f"is version {version}", f"use Redis {OLDEST} or later, or Valkey")
    if about.get("redis_mode") == "cluster":
        return Missing(
            "runs in cluster mode, in which one script can't use the keys of several jobs",
            "use a Redis without cluster mode",
        )
    return None


async def missing(redis: ArqRedis) -> list[Missing]:
    """What it refuses of the commands that a worker needs, without changing anything."""
    user = user_of(redis)
    if outside := await _missing_outside_scripts(redis, user):
        return outside
    queue = redis.default_queue_name
    keys = [
        key(queue) for key in (running_key, cancel_key, lane_key, workers_key, epoch_key, waits_key)
    ]
    refused: Sequence[tuple[bytes, bytes, bytes]] = await script(redis, "probe")(
        args=[queue, _PROBE, *keys, trouble_key(queue, _PROBE)]
    )
    return [_refused(user, *(each.decode(errors="replace") for each in one)) for one in refused]


async def _missing_outside_scripts(redis: ArqRedis, user: str) -> list[Missing]:
    """What is not to be had inside a script. By client-side caching Redis tells that something came."""
    asked = (
        ("EVAL", "return 1", "0"),
        ("EVALSHA", "0" * 40, "0"),
        ("CLIENT", "ID"),
        ("CLIENT", "TRACKING", "OFF"),
    )
    async with redis.pipeline(transaction=False) as pipe:
        for words in asked:
            pipe.execute_command(*words)
        answers = await pipe.execute(raise_on_error=False)
    found = {}
    for (command, *_), answer in zip(asked, answers, strict=True):
        if isinstance(answer, NoPermissionError):
            rule = f"ACL SETUSER {user} +{command.lower()}"
            found[command] = Missing(f"user {user!r} may not run {command}", rule)
        elif isinstance(answer, RedisError) and not isinstance(answer, NoScriptError):
            found[command] = Missing(f"refuses {command} ({answer})", "do not rename or disable it")
    return list(found.values())


def user_of(redis: ArqRedis) -> str:
    """The name that we log in with."""
    return redis.connection_pool.connection_kwargs.get("username") or "default"


def _refused(user: str, command: str, key: str, error: str) -> Missing:
    """What one refusal of the probe means. Inside a script Redis says `NOPERM`, or only that the user can't."""
    if error.startswith(("OOM", "MISCONF", "NOREPLICAS")):
        return Missing(
            f"takes no writes ({error.partition('. ')[0]})",
            "free memory or raise maxmemory" if error.startswith("OOM") else "mend that",
            passing=True,
        )
    if error.startswith("READONLY"):
        return Missing("is read-only: a replica, or demoted", "point the setting to the primary")
    if "key" in error and ("access" in error or "NOPERM" in error):
        family = re.sub(r"^((?:arq|ledgerq):).*", r"\1*", key) if "probe" in key else key
        return Missing(f"user {user!r} may not use the key {key}", f"ACL SETUSER {user} ~{family}")
    if "can't run this command" in error or "no permissions to run" in error or "NOPERM" in error:
        return Missing(
            f"user {user!r} may not run {command}", f"ACL SETUSER {user} +{command.lower()}"
        )
    return Missing(f"refuses {command} ({error})", "do not rename or disable it")


def _major(version: str) -> int:
    major = version.partition(".")[0]
    return int(major) if major.isdecimal() else OLDEST
