"""Faults of the two servers: killed, restarted, full, read-only, emptied, locked, out of connections."""

import asyncio
import os
import signal
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg

from tests.chaos.servers import PostgreSQL, wait_until
from tests.chaos.world import World


def kill_redis(world: World) -> None:
    """kill -9, and start again with its append-only file."""
    with world.fault("kill_redis"):
        world.redis.kill()
        time.sleep(world.random.choice((0, 0, 0.5, 3)))
        world.redis.start()


def restart_redis(world: World) -> None:
    """An orderly stop and start."""
    with world.fault("restart_redis"):
        world.redis.stop()
        world.redis.start()


def pause_redis(world: World) -> None:
    """SIGSTOP of Redis: connections stay, answers do not come."""
    with world.fault("pause_redis"):
        world.redis.signal(signal.SIGSTOP)
        time.sleep(world.random.uniform(0.5, 8))
        world.redis.signal(signal.SIGCONT)


def fill_redis(world: World) -> None:
    """maxmemory is reached: every write is refused."""
    with world.fault("fill_redis"), world.redis.client() as client:
        client.config_set("maxmemory", 1)
        time.sleep(world.random.uniform(0.5, 4))
        client.config_set("maxmemory", 0)


def demote_redis(world: World) -> None:
    """Redis is made a replica of a dead host: it reads and does not write."""
    with world.fault("demote_redis"), world.redis.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        time.sleep(world.random.uniform(0.5, 4))
        client.execute_command("REPLICAOF", "NO", "ONE")


def load_redis(world: World) -> None:
    """Redis starts and takes some seconds to load its data: it answers LOADING meanwhile."""
    with world.redis.client() as client:
        client.bgrewriteaof()
        wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], "no rewrite")
        keys = max(1, int(str(client.dbsize())))
    with world.fault("load_redis"):
        world.redis.stop()
        slow = str(int(2_000_000 / keys))  # µs for each key
        world.redis.start(
            **{"key-load-delay": slow, "loading-process-events-interval-bytes": "1024"}
        )
    with world.redis.client() as client:
        client.config_set("key-load-delay", 0)


def kill_postgresql_backend(world: World) -> None:
    """kill -9 of a backend: the whole server drops its connections and recovers."""
    backends = sorted(world.postgresql.worker_backends())
    if backends:
        with world.fault("kill_postgresql_backend"):
            world.postgresql.kill_backend(world.random.choice(backends))
            _until_postgresql_answers(world)


def kill_postgresql(world: World) -> None:
    """kill -9 of the postmaster."""
    with world.fault("kill_postgresql"):
        world.postgresql.kill()
        time.sleep(world.random.choice((0, 0, 0.5, 3)))
        world.postgresql.start()


def restart_postgresql(world: World) -> None:
    """`pg_ctl restart -m immediate`, or fast."""
    with world.fault("restart_postgresql"):
        world.postgresql.stop(world.random.choice(("immediate", "fast")))
        world.postgresql.start()


def terminate_backends(world: World) -> None:
    """`pg_terminate_backend` on some of the workers' connections."""
    backends = sorted(world.postgresql.worker_backends())
    chosen = [pid for pid in backends if world.random.random() < 0.3]
    world.note("terminate_backends")
    world.postgresql.fetch("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", chosen)


def pause_backend(world: World) -> None:
    """SIGSTOP of one backend, and SIGCONT."""
    backends = sorted(world.postgresql.worker_backends())
    if backends:
        pid = world.random.choice(backends)
        with world.fault("pause_backend"):
            _signal_backend(pid, signal.SIGSTOP)
            time.sleep(world.random.uniform(0.5, 3))
            _signal_backend(pid, signal.SIGCONT)


def exhaust_connections(world: World) -> None:
    """Idle sessions take every place that max_connections has, and the workers lose theirs."""

    async def hold() -> None:
        held = deque[Any]()
        with suppress(asyncpg.PostgresError, OSError):
            while len(held) < 200:
                held.append(await world.postgresql.connect(user=PostgreSQL.ROLE))
        await asyncio.sleep(world.random.uniform(0.5, 3))
        for connection in held:
            connection.terminate()

    with world.fault("exhaust_connections"):
        world.postgresql.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name LIKE 'ledgerq:%' AND state = 'idle'"
        )
        asyncio.run(hold())


def lock_table(world: World) -> None:
    """Somebody holds a lock on a table that jobs write, for longer or shorter than lock_timeout."""

    async def hold() -> None:
        connection = await world.postgresql.connect()
        try:
            async with connection.transaction():
                table = world.random.choice(("task", "ledgerq.audit_log", "ledgerq.processed_job"))
                await connection.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
                await asyncio.sleep(world.random.uniform(0.5, 6))
        finally:
            connection.terminate()

    with world.fault("lock_table"):
        asyncio.run(hold())


def flush_redis(world: World) -> None:
    """FLUSHALL."""
    world.destroyed.append(time.time())
    with world.fault("flush_redis"), world.redis.client() as client:
        client.flushall()
    world.destroyed.append(time.time())


def set_redis_back(world: World) -> None:
    """Redis comes back with the data of some seconds ago."""
    copy = world.folder / "redis-copy"
    world.redis.copy_data(copy)
    time.sleep(world.random.uniform(1, 4))
    world.destroyed.append(time.time())
    with world.fault("set_redis_back"):
        world.redis.kill()
        world.redis.put_back(copy)
        world.redis.start()
    world.destroyed.append(time.time())


def empty_redis(world: World) -> None:
    """kill -9, and start again with nothing."""
    world.destroyed.append(time.time())
    with world.fault("empty_redis"):
        world.redis.kill()
        world.redis.empty()
        world.redis.start()
    world.destroyed.append(time.time())


def delete_keys(world: World) -> None:
    """An operator deletes a part of the keys, whichever they are."""
    world.destroyed.append(time.time())
    with world.fault("delete_keys"), world.redis.client() as client:
        keys = sorted(client.scan_iter("*", count=1000))
        chosen = [key for key in keys if world.random.random() < 0.3]
        if chosen:
            client.delete(*chosen)
    world.destroyed.append(time.time())


def _signal_backend(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, FileNotFoundError):
        if Path(f"/proc/{pid}/comm").read_text().startswith("postgres"):
            os.kill(pid, number)


def _until_postgresql_answers(world: World) -> None:
    deadline = time.monotonic() + 30
    while not world.postgresql.answers() and time.monotonic() < deadline:
        time.sleep(0.05)
