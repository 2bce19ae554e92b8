"""Checks the version of Redis, and the commands and keys that it allows: at a worker's start, and for health."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from arq.connections import ArqRedis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, OutOfMemoryError, ReadOnlyError, ResponseError

from ledgerq.broker.keys import (
    cancel_key,
    epoch_key,
    exclusive_slot_key,
    failures_key,
    renewal_key,
    running_key,
    waits_key,
    workers_key,
)
from ledgerq.broker.scripts import script

OLDEST = 7  # major version; the scripts use flags that earlier versions do not know
_PROBE = "ledgerq-probe"  # a job id that nobody has
_INVALIDATIONS = "__redis__:invalidate"  # the channel on which Redis notifies of changed keys
_OWN_KEY = "ledgerq:probe"  # a key that only these checks use
# errors that refuse nothing; EXEC lacks its MULTI only if MULTI was refused, which is reported by itself
_NO_REFUSAL = ("invalid expire time", "EXEC without MULTI", "MISCONF", "NOREPLICAS")
# the commands that ledgerq and arq send outside scripts, here in a form that changes nothing
OUTSIDE_SCRIPTS: tuple[tuple[str, ...], ...] = (
    ("EVAL", "return 1", "0"),
    ("EVALSHA", "0" * 40, "0"),
    ("CLIENT", "ID"),
    ("CLIENT", "TRACKING", "OFF"),
    ("TIME",),
    ("WATCH", _OWN_KEY),
    ("UNWATCH",),
    ("MULTI",),
    ("EXEC",),
    ("ZCARD", _OWN_KEY),
    ("EXPIRE", _OWN_KEY, "1", "XX"),
    # a time to live of 0: a user who may run the command gets an error about the time
    ("PSETEX", _OWN_KEY, "0", ""),
    ("SUBSCRIBE", _INVALIDATIONS),  # the last: RESP2 allows few commands after it
)


@dataclass(frozen=True, slots=True)
class Missing:
    """Something that this Redis lacks, and the cure. `passing`: a worker can start without it, as it may come back."""

    problem: str
    cure: str
    passing: bool = False
    slows: bool = False  # everything works without it, but with delays


async def server(redis: ArqRedis) -> Mapping[str, Any]:
    """The answer of Redis to INFO server; empty if INFO is forbidden."""
    try:
        found: Mapping[str, Any] = await redis.info("server")
    except ResponseError:
        return {}
    return found


def unfit(about: Mapping[str, Any]) -> Missing | None:
    """Why ledgerq can't use the server that INFO describes: its version or its mode; None if it can."""
    version = str(about.get("redis_version", ""))
    if version and _major(version) < OLDEST:
        return Missing(f"is version {version}", f"use Redis {OLDEST} or later, or Valkey")
    if about.get("redis_mode") == "cluster":
        return Missing(
            "runs in cluster mode, in which one script can't use the keys of several jobs",
            "use a Redis without cluster mode",
        )
    return None


async def missing(redis: ArqRedis, queues: Iterable[str] = ()) -> list[Missing]:
    """The commands and keys that a worker of these queues needs and Redis refuses. Nothing on Redis is changed."""
    user = user_of(redis)
    outside = await _missing_outside_scripts(redis, user)
    if any(not each.slows for each in outside):
        return outside
    inside = [
        _refused(user, *(each.decode(errors="replace") for each in refused))
        for queue in dict.fromkeys((redis.default_queue_name, *queues))
        for refused in await _refused_inside_scripts(redis, queue)
    ]
    return list(dict.fromkeys([*inside, *outside]))  # equal ones have one cure


async def _refused_inside_scripts(
    redis: ArqRedis, queue: str
) -> Sequence[tuple[bytes, bytes, bytes]]:
    of_queue = (
        running_key, cancel_key, exclusive_slot_key, workers_key, epoch_key, renewal_key, waits_key,
    )  # fmt: skip
    keys = [key(queue) for key in of_queue]
    refused: Sequence[tuple[bytes, bytes, bytes]] = await script(redis, "probe")(
        args=[queue, _PROBE, *keys, failures_key(queue, _PROBE)]
    )
    return refused


async def _missing_outside_scripts(redis: ArqRedis, user: str) -> list[Missing]:
    """Try the commands that a script can't run. SUBSCRIBE spoils a connection, so they have one of their own."""
    connection = redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    found = dict[str, Missing]()
    try:
        await connection.connect()
        for command, *words in OUTSIDE_SCRIPTS:
            if error := await _refusal(connection, command, *words):
                found.setdefault(command, _refused_outside(user, command, error))
    finally:
        await connection.disconnect(nowait=True)
    return list(found.values())


async def _refusal(connection: AbstractConnection, *words: str) -> ResponseError | None:
    await connection.send_command(*words)
    try:
        await connection.read_response()
    except (NoScriptError, OutOfMemoryError, ReadOnlyError):
        return None  # the script `probe` reports the last two
    except ResponseError as error:
        return None if str(error).startswith(_NO_REFUSAL) else error
    return None


def _refused_outside(user: str, command: str, error: ResponseError) -> Missing:
    said = str(error.__context__ or error)  # as Redis said it, before our connection explained it
    if "channel" in said:
        problem, rule = f"use the channel {_INVALIDATIONS}", f"&{_INVALIDATIONS}"
        return _polls(Missing(f"user {user!r} may not {problem}", f"ACL SETUSER {user} {rule}"))
    found = _refused(user, command, _OWN_KEY, said)
    return _polls(found) if command == "SUBSCRIBE" else found


def _polls(found: Missing) -> Missing:
    """Mark the lack as one that only slows a worker: without notifications it polls."""
    return replace(found, passing=True, slows=True)


def user_of(redis: ArqRedis) -> str:
    """The name of the user as whom the client logs in to Redis."""
    return redis.connection_pool.connection_kwargs.get("username") or "default"


def _refused(user: str, command: str, key: str, error: str) -> Missing:
    """The lack that an error of Redis shows. Inside a script Redis says `NOPERM`, or only that the user can't."""
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
