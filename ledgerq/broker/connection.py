"""Builds the client for Redis: arq's own has no socket timeouts, and its repr prints the password.

A connection that is open but useless is replaced, for every caller: its server became read-only, is loading or lost its
master, or closed its side. An error by which Redis refuses a command is reworded to one sentence with the cure.
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
_PASSING = ("MASTERDOWN", "LOADING", "CLUSTERDOWN")  # errors of a server that is useless for now


class _Redis(ArqRedis):
    """arq's client, which adds the queue to the job id of a schedule's tick: all queues of one Redis share the ids.

    `queues` maps scheduled functions to the keys of their queues; other functions go to the default queue.
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
    """The job id of a schedule's tick on this queue: arq's id with the queue added, except on arq's default queue."""
    if queue == default_queue_name:
        return job_id
    named = f"{job_id}:{queue}"
    if len(named) > MAX_JOB_ID:
        return f"{job_id}:{sha256(queue.encode()).hexdigest()[:16]}"
    return named


def connect(config: BrokerConfig, queues: Mapping[str, str] | None = None) -> ArqRedis:
    """A client with a pool of its own, which opens no connection yet. Bodies and results are JSON.

    It sends a command again, on a new connection, if the server fails it or has become read-only. A worker's claims and
    acks have connections that never do (`ledgerq.broker.claims.own_connections`).

    Args:
        config: where Redis is, and the default queue.
        queues: name of a cron function → key of its queue, for those that do not go to the default queue.
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
    """A connection that does less work for each command than redis-py's, and notices that its server is useless.

    A command takes 0.7 times the processor time of redis-py's connection (`make bench-private`).
    """

    _pack = staticmethod(HiredisRespSerializer().pack)  # in C, as its reader is already
    _useless = False  # the server answers, but is useless: replace the connection
    _connecting = False

    def pack_command(self, *words: Any) -> list[bytes]:
        return list(self._pack(*words))

    async def can_read_destructive(self) -> bool:
        """True if the connection must be replaced: it is useless, Redis has closed it, or an answer is left unread.

        redis-py 5 asks before each command, and by itself would try a read that times out each time.
        """
        if self._useless:
            return True
        stream = self._reader
        if stream and not stream.at_eof() and not stream._buffer:  # type: ignore[attr-defined] # noqa: SLF001 - avoids a read that times out
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
        # no health check while the connection is set up
        self.next_health_check = asyncio.get_running_loop().time() + 60
        await super().on_connect()

    async def check_health(self) -> None:
        """Ping Redis if the connection was idle for `health_check_interval`; if it is dead, connect anew, only once."""
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
    """The error with a text for people: place, problem and cure. An error that is not known here stays as it is."""
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
    """The ACL command that would allow what Redis has refused."""
    command = re.search(r"the '([^']+)' command", refusal)
    if command:
        return f"ACL SETUSER {user} +{command[1]}"
    if "channel" in refusal:
        return f"ACL SETUSER {user} &__redis__:invalidate"
    return f"ACL SETUSER {user} ~arq:* ~ledgerq:*, and the key of the queue"


async def require_redis(
    redis: ArqRedis, *, for_worker: bool = True, queues: Iterable[str] = ()
) -> None:
    """Check that Redis answers, and that it has what ledgerq needs.

    Args:
        redis: the client.
        for_worker: also try each command and key that a worker uses; a producer needs few of them.
        queues: queues that the worker serves beside the default queue.

    Raises:
        Unreachable: Redis does not answer; the text names the setting and the address, not the password.
        RedisRefuses: Redis is too old or a cluster, or lacks or forbids a command or a key; the text says which.
    """
    try:
        await redis.ping()
        lacks = unfit(await server(redis))
        if lacks is None and for_worker:
            lacks = next((each for each in await missing(redis, queues) if not each.passing), None)
    except (AuthenticationError, NoPermissionError, ReadOnlyError) as error:
        raise RedisRefuses(str(error)) from error
    except (RedisError, OSError) as error:
        refused = error.__cause__ or error.__context__  # while redis-py connected
        if isinstance(refused, AuthenticationError | NoPermissionError):
            raise RedisRefuses(str(refused)) from error
        reason = first_line(error)
        raise Unreachable("REDIS_URL", address_of(redis), reason) from error
    if lacks:
        raise RedisRefuses(
            f"REDIS_URL: Redis at {address_of(redis)}: {lacks.problem}; {lacks.cure}"
        )


def address_of(redis: ArqRedis) -> str:
    """The server and database to which this client connects, as text without the password."""
    where = redis.connection_pool.connection_kwargs
    place = where.get("path") or f"{where.get('host', 'localhost')}:{where.get('port', 6379)}"
    return f"{place}, database {where.get('db', 0)}"


def settings_for_arq_check(config: BrokerConfig) -> RedisSettings:
    """The settings of Redis for `arq --check`, which builds its own client; everything else uses `connect`."""
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
