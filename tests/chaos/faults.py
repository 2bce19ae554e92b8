"""Every fault, as a function of the world: it breaks something, waits as long as it must, and heals it.

A fault is noted in the world by its function's name. `CUTS` are cheap and come many a second; `KEEPING`
lose nothing that Redis has acknowledged; `DESTROYING` lose Redis' data, so that only staged jobs are sure.
"""

import asyncio
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import asyncpg

from tests.chaos.fleet import Member
from tests.chaos.proxy import Hop
from tests.chaos.servers import PostgreSQL, wait_until
from tests.chaos.world import World

Break = Callable[[World], None]


def kill_worker(world: World) -> None:
    """kill -9 of one worker; another is started in its place."""
    member = _some_worker(world)
    world.note("kill_worker", victims=_names(member))
    world.fleet.kill(member)


def kill_all_workers(world: World) -> None:
    """kill -9 of all workers at once."""
    world.note("kill_all_workers")
    for member in world.fleet.living():
        world.fleet.kill(member)


def terminate_worker(world: World) -> None:
    """SIGTERM, as a deploy sends it."""
    member = _some_worker(world)
    world.note("terminate_worker", victims=_names(member))
    world.fleet.terminate(member)


def terminate_worker_twice(world: World) -> None:
    """SIGTERM, and again while it drains."""
    member = _some_worker(world)
    world.note("terminate_worker_twice", victims=_names(member))
    world.fleet.terminate(member, times=2)


def pause_worker(world: World) -> None:
    """SIGSTOP for longer than the lease: its jobs are taken over, then it wakes up and goes on."""
    member = _some_worker(world)
    with world.fault("pause_worker", _names(member)):
        world.fleet.pause(member)
        time.sleep(world.lease * world.random.uniform(1.1, 1.5))
        world.fleet.unpause(member)


def pause_worker_shortly(world: World) -> None:
    """SIGSTOP for less than the lease."""
    member = _some_worker(world)
    with world.fault("pause_worker_shortly", _names(member)):
        world.fleet.pause(member)
        time.sleep(world.lease * world.random.uniform(0.1, 0.6))
        world.fleet.unpause(member)


def skew_worker(world: World) -> None:
    """One worker's clock is off by up to 90 seconds, from its next start on."""
    member = _some_worker(world)
    world.note("skew_worker", victims=_names(member))
    world.fleet.skew[member.number] = world.random.uniform(-90, 90)
    world.fleet.kill(member)


def kill_producer(world: World) -> None:
    """kill -9 of the producer; another goes on."""
    world.note("kill_producer")
    world.producers.kill()
    world.producers.start()


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
                table = world.random.choice(("task", "audit_log", "processed_job"))
                await connection.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
                await asyncio.sleep(world.random.uniform(0.5, 6))
        finally:
            connection.terminate()

    with world.fault("lock_table"):
        asyncio.run(hold())


def cut_all(world: World) -> None:
    """Every connection of one hop breaks at once."""
    hop = _some_hop(world)
    world.note(f"cut_all_{hop.name}")
    hop.cut_all(world.random.choice(("rst", "fin")))


def half_open(world: World) -> None:
    """Half of the connections get no more answers, for ever; new ones do."""
    hop = _some_hop(world)
    world.note(f"half_open_{hop.name}")
    hop.half_open(world.random, 0.5)


def stall(world: World) -> None:
    """Nothing moves, then everything does."""
    hop = _some_hop(world)
    with world.fault(f"stall_{hop.name}"):
        hop.stall()
        time.sleep(world.random.uniform(0.5, 7))
        hop.resume()


def delay(world: World) -> None:
    """Every piece of data is late."""
    hop = _some_hop(world)
    with world.fault(f"delay_{hop.name}"):
        hop.delay(world.random.uniform(0.02, 0.3))
        time.sleep(world.random.uniform(1, 3))
        hop.resume()


def refuse(world: World) -> None:
    """No connection is taken: a partition of the workers from one server."""
    hop = _some_hop(world)
    with world.fault(f"refuse_{hop.name}"):
        hop.refuse()
        time.sleep(world.random.uniform(0.3, 5))
        hop.resume()


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


KEEPING: dict[Break, int] = {
    kill_worker: 30,
    kill_all_workers: 3,
    terminate_worker: 6,
    terminate_worker_twice: 4,
    pause_worker: 1,
    pause_worker_shortly: 3,
    skew_worker: 3,
    kill_producer: 2,
    kill_redis: 6,
    restart_redis: 3,
    pause_redis: 2,
    fill_redis: 3,
    demote_redis: 3,
    load_redis: 2,
    kill_postgresql_backend: 4,
    kill_postgresql: 3,
    restart_postgresql: 4,
    terminate_backends: 12,
    pause_backend: 3,
    exhaust_connections: 2,
    lock_table: 2,
    cut_all: 10,
    half_open: 2,
    stall: 2,
    delay: 3,
    refuse: 4,
}
DESTROYING: dict[Break, int] = {
    flush_redis: 4,
    set_redis_back: 3,
    empty_redis: 2,
    delete_keys: 4,
    kill_worker: 3,
    kill_producer: 1,
    terminate_backends: 2,
}


def choose(random: Random, faults: dict[Break, int]) -> Break:
    """One of them, by weight."""
    return random.choices(list(faults), weights=list(faults.values()))[0]


def cut_some(world: World, random: Random) -> None:
    """Cut one connection of either hop after some further bytes."""
    hop = random.choice((world.to_redis, world.to_postgresql))
    hop.cut(random, random.choice(("rst", "fin")), within=random.choice((50, 500, 5_000)))


def _some_worker(world: World) -> Member:
    return world.random.choice(world.fleet.living())


def _some_hop(world: World) -> Hop:
    return world.random.choice((world.to_redis, world.to_postgresql))


def _names(member: Member) -> frozenset[str]:
    return frozenset({member.name})


def _signal_backend(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, FileNotFoundError):
        if Path(f"/proc/{pid}/comm").read_text().startswith("postgres"):
            os.kill(pid, number)


def _until_postgresql_answers(world: World) -> None:
    deadline = time.monotonic() + 30
    while not world.postgresql.answers() and time.monotonic() < deadline:
        time.sleep(0.05)
