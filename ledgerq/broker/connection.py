"""The connection to Redis, built by us: arq's own has no socket timeouts, and its repr prints the password.

A connection that looks alive and is of no use is replaced here, for every caller: one to a server that became
read-only, is loading, or lost its master; one that is half-closed. What Redis refuses is said in one sentence.
"""

import asyncio
import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from types import MappingProxyType
from typing import Any

from arq.connections import ArqRedis, RedisSettings
from arq.constants import default_queue_name
from arq.jobs import Job
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.connection import HiredisRespSerializer
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ledgerq.broker.requirements import missing, server, unfit
from ledgerq.broker.settings import BrokerConfig
from ledgerq.errors import RedisRefuses, Unreachable
from ledgerq.runtime.process_name import process_name
from ledgerq.text import first_line
from ledgerq.wire.arq_json import from_wire, to_wire
from ledgerq.wire.envelope import MAX_JOB_ID
from ledgerq.wire.names import CRON_PREFIX

_ARQ_TLS = {"ssl_keyfile", "ssl_certfile", "ssl_cert_reqs", "ssl_ca_certs", "ssl_check_hostname"}
_PASSING = ("MASTERDOWN", "LOADING", "CLUSTERDOWN")  # what a server says that is of no use for now


class _Redis(ArqRedis):
    """arq's client. A tick of one schedule gets an id of its own on each queue: ids are shared by all of them.

    `queues` are those of scheduled functions by name, where they are not the worker's own.
    """

    queues: Mapping[str, str] = MappingProxyType({})

    async def enqueue_job(
        self,
        function: str,
        *args: Any,
        _job_id: str | None = None,
        _queue_name: str | None = None,
        **options: Any,
    ) -> Job | None:
        queue = _queue_name or self.default_queue_name
        if _job_id and function.startswith(CRON_PREFIX) and _job_id.startswith(f"{function}:"):
            queue = self.queues.get(function, queue)
            _job_id = tick_id(_job_id, queue)
        return await super().enqueue_job(
            function, *args, _job_id=_job_id, _queue_name=queue, **options
        )


def tick_id(job_id: str, queue: str) -> str:
    """The id of a schedule's tick on this queue; on arq's default queue it is arq's own."""
    if queue == default_queue_name:
        return job_id
    named = f"{job_id}:{queue}"
    if len(named) > MAX_JOB_ID:
        return f"{job_id}:{sha256(queue.encode()).hexdigest()[:16]}"
    return named


def connect(config: BrokerConfig, queues: Mapping[str, str] | None = None) -> ArqRedis:
    """A client with a pool of its own; no connection is opened yet. Bodies and results are JSON.

    Args:
        config: where Redis is, and the default queue.
        queues: of scheduled functions by name, where it is not the default queue.
    """
    url = config.redis_url.get_secret_value()
    tcp_only = {} if url.startswith("unix:") else {"socket_keepalive": True}
    pool: ConnectionPool = ConnectionPool.from_url(
        url,
        socket_timeout=5,
        socket_connect_timeout=2,
        **tcp_only,
        health_check_interval=15,
        retry=Retry(ExponentialBackoff(cap=1, base=0.05), 3),
        retry_on_error=[RedisConnectionError, RedisTimeoutError, ReadOnlyError],
        client_name=process_name(),
    )
    pool.connection_class = _lean(pool.connection_class)
    redis = _Redis(
        pool,
        job_serializer=to_wire,
        job_deserializer=from_wire,
        default_queue_name=config.queue,
    )
    redis.queues = queues or {}
    return redis


def _lean(connection: type[AbstractConnection]) -> type[AbstractConnection]:
    return type("Lean", (_Lean, connection), {})


class _Lean(AbstractConnection):
    """A connection with less around each command than redis-py's, that notices when it is of no use.

    A command takes 0.7 times the process's time (`make bench-private`).
    """

    _pack = staticmethod(HiredisRespSerializer().pack)  # in C, as its reader is already
    _useless = False  # it answers, and is to be replaced before the next command
    _connecting = False

    def pack_command(self, *words: Any) -> list[bytes]:
        return list(self._pack(*words))

    async def can_read_destructive(self) -> bool:
        """Asked before each command; true if Redis has closed the connection, or an answer is left over.

        redis-py 5 tries a read that times out before each.
        """
        if self._useless:
            return True
        stream = self._reader
        if stream and not stream.at_eof() and not stream._buffer:  # type: ignore[attr-defined] # noqa: SLF001 - else it is a read that times out
            return False
        return bool(await super().can_read_destructive())  # type: ignore[no-untyped-call]

    async def connect(self) -> None:
        if self.is_connected:
            return
        if self._connecting:  # redis-py would connect inside of connecting, again and again
            raise RedisConnectionError(f"{self._host_error()} closes connections at once")
        self._connecting = True
        try:
            await super().connect()  # type: ignore[no-untyped-call]
        finally:
            self._connecting = False

    async def on_connect(self) -> None:
        self._useless = False
        # while it is set up, the connection is not asked whether it is one
        self.next_health_check = asyncio.get_running_loop().time() + 60
        await super().on_connect()

    async def check_health(self) -> None:
        """Asked of a connection that was idle for a while; a dead one is replaced once, not again and again."""
        now = asyncio.get_running_loop().time()
        if not self.health_check_interval or now <= self.next_health_check:
            return
        try:
            await self._send_ping()  # type: ignore[no-untyped-call]
        except (RedisError, OSError):
            await self.disconnect(nowait=True)
            await self.connect()

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except (ResponseError, AuthenticationError) as error:
            word = str(error).partition(" ")[0]
            self._useless = isinstance(error, ReadOnlyError) or word in _PASSING
            raise _explained(error, self._host_error(), self.username or "default") from None


def _explained(error: RedisError, place: str, user: str) -> RedisError:
    """The same refusal as a sentence for a person, where we know one."""
    match error:
        case ReadOnlyError():
            said = "is read-only: a replica, or demoted; point the setting to the primary"
        case OutOfMemoryError():
            said = "is full and takes no more jobs; free memory or raise maxmemory"
        case AuthenticationError():
            said = f"does not let user {user!r} in ({error}); correct the user or the password"
        case NoPermissionError():
            said = f"forbids it to user {user!r} ({error}); {_rule(str(error), user)}"
        case _:
            return error
    return type(error)(f"REDIS_URL: Redis at {place} {said}")


def _rule(refusal: str, user: str) -> str:
    """The ACL rule that would allow it."""
    command = re.search(r"the '([^']+)' command", refusal)
    if command:
        return f"ACL SETUSER {user} +{command[1]}"
    if "channel" in refusal:
        return f"ACL SETUSER {user} &__redis__:invalidate"
    return f"ACL SETUSER {user} ~arq:* ~ledgerq:*, and the key of the queue"


async def require_redis(
    redis: ArqRedis, *, for_worker: bool = True, queues: Iterable[str] = ()
) -> None:
    """Ask Redis for a sign of life, and for what we need.

    Args:
        redis: a client of it.
        for_worker: ask for each command and key that a worker uses; a producer needs few of them.
        queues: that the worker serves, where it is not the default queue.

    Raises:
        Unreachable: it gives none; the text names the setting and the address, not the password.
        RedisRefuses: it answers, and is too old, or lacks or forbids a command or a key; the text says which.
    """
    try:
        await redis.ping()
        lacks = unfit(await server(redis))
        if lacks is None and for_worker:
            lacks = next((each for each in await missing(redis, queues) if not each.passing), None)
    except (AuthenticationError, NoPermissionError, ReadOnlyError) as error:
        raise RedisRefuses(str(error)) from error
    except (RedisError, OSError) as error:
        refused = error.__cause__ or error.__context__  # while it connected
        if isinstance(refused, AuthenticationError | NoPermissionError):
            raise RedisRefuses(str(refused)) from error
        reason = first_line(error)
        raise Unreachable("REDIS_URL", address_of(redis), reason) from error
    if lacks:
        raise RedisRefuses(
            f"REDIS_URL: Redis at {address_of(redis)}: {lacks.problem}; {lacks.cure}"
        )


def address_of(redis: ArqRedis) -> str:
    """Where this client connects to, without the password."""
    where = redis.connection_pool.connection_kwargs
    place = where.get("path") or f"{where.get('host', 'localhost')}:{where.get('port', 6379)}"
    return f"{place}, database {where.get('db', 0)}"


def settings_for_arq_check(config: BrokerConfig) -> RedisSettings:
    """What `arq --check` needs; everything else uses `connect`."""
    where = ConnectionPool.from_url(config.redis_url.get_secret_value()).connection_kwargs
    tls = {name: value for name, value in where.items() if name in _ARQ_TLS}
    return RedisSettings(
        **tls,
        host=where.get("host", "localhost"),
        port=where.get("port", 6379),
        unix_socket_path=where.get("path"),
        database=where.get("db", 0),
        username=where.get("username"),
        password=where.get("password"),
        ssl=config.redis_url.get_secret_value().startswith("rediss:"),
    )
