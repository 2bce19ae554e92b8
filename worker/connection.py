"""The connection to Redis, built by us: arq's own has no socket timeouts, and its repr prints the password."""

from typing import Any

from arq.connections import ArqRedis, RedisSettings
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.connection import HiredisRespSerializer
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from db.errors import Unreachable
from worker.config import WorkerConfig, process_name
from worker.wire import from_wire, to_wire


def connect(config: WorkerConfig) -> ArqRedis:
    """A client with a pool of its own; no connection is opened yet. Bodies and results are JSON."""
    url = config.redis_url.get_secret_value()
    tcp_only = {} if url.startswith("unix:") else {"socket_keepalive": True}
    pool: ConnectionPool = ConnectionPool.from_url(
        url,
        socket_timeout=5,
        socket_connect_timeout=2,
        **tcp_only,
        health_check_interval=15,
        retry=Retry(ExponentialBackoff(cap=1, base=0.05), 3),
        retry_on_error=[RedisConnectionError, RedisTimeoutError],
        client_name=process_name(),
    )
    pool.connection_class = _lean(pool.connection_class)
    return ArqRedis(
        pool,
        job_serializer=to_wire,
        job_deserializer=from_wire,
        default_queue_name=config.queue,
    )


def _lean(connection: type[AbstractConnection]) -> type[AbstractConnection]:
    """The same connection with less around each command: redis-py 5 tries a read that times out before each."""
    pack = HiredisRespSerializer().pack  # in C, as its reader is already

    class Lean(connection):  # type: ignore[misc, valid-type]
        def pack_command(self, *words: Any) -> list[bytes]:
            return list(pack(*words))

        async def can_read_destructive(self) -> bool:
            """Asked before each command; true if Redis has closed the connection, or an answer is left over."""
            stream = self._reader
            if stream and not stream.at_eof() and not stream._buffer:  # noqa: SLF001 - else it is a read that times out
                return False
            return bool(await super().can_read_destructive())

    return Lean


async def require_redis(redis: ArqRedis) -> None:
    """Ask Redis for a sign of life.

    Raises:
        Unreachable: it gives none; the text names the setting and the address, not the password.
    """
    try:
        await redis.ping()
    except (RedisError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Unreachable("REDIS_URL", address_of(redis), reason) from error


def address_of(redis: ArqRedis) -> str:
    """Where this client connects to, without the password."""
    where = redis.connection_pool.connection_kwargs
    place = where.get("path") or f"{where.get('host', 'localhost')}:{where.get('port', 6379)}"
    return f"{place}, database {where.get('db', 0)}"


def settings_for_arq_check(config: WorkerConfig) -> RedisSettings:
    """What `arq --check` needs; everything else uses `connect`."""
    where = ConnectionPool.from_url(config.redis_url.get_secret_value()).connection_kwargs
    return RedisSettings(
        host=where.get("host", "localhost"),
        port=where.get("port", 6379),
        unix_socket_path=where.get("path"),
        database=where.get("db", 0),
        username=where.get("username"),
        password=where.get("password"),
        ssl=config.redis_url.get_secret_value().startswith("rediss:"),
    )
