"""Every fault, as a function of the world: it breaks something, waits as long as it must, and heals it.

A fault is noted in the world by its function's name. `CUTS` are cheap and come many a second; `KEEPING`
lose nothing that Redis has acknowledged; `DESTROYING` lose Redis' data, so that only staged jobs are sure.
"""

import time
from collections.abc import Callable
from random import Random

from tests.chaos import server_faults, step_faults
from tests.chaos.fleet import Member
from tests.chaos.proxy import Hop
from tests.chaos.world import World

STARTS = 20.0  # seconds for a worker to start, on a machine that has other things to do

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


KEEPING: dict[Break, int] = {
    kill_worker: 20,
    kill_all_workers: 3,
    terminate_worker: 6,
    terminate_worker_twice: 4,
    pause_worker: 1,
    pause_worker_shortly: 3,
    skew_worker: 3,
    kill_producer: 2,
    server_faults.kill_redis: 6,
    server_faults.restart_redis: 3,
    server_faults.pause_redis: 2,
    server_faults.fill_redis: 3,
    server_faults.demote_redis: 3,
    server_faults.load_redis: 2,
    server_faults.kill_postgresql_backend: 4,
    server_faults.kill_postgresql: 3,
    server_faults.restart_postgresql: 4,
    server_faults.terminate_backends: 12,
    server_faults.pause_backend: 3,
    server_faults.exhaust_connections: 2,
    server_faults.lock_table: 2,
    step_faults.kill_worker_in_step: 10,
    step_faults.kill_worker_after_answer: 10,
    step_faults.cut_worker_after_answer: 10,
    step_faults.terminate_backends_after_answer: 6,
    step_faults.restart_postgresql_after_answer: 3,
    cut_all: 10,
    half_open: 2,
    stall: 2,
    delay: 3,
    refuse: 4,
}
DESTROYING: dict[Break, int] = {
    server_faults.flush_redis: 4,
    server_faults.set_redis_back: 3,
    server_faults.empty_redis: 2,
    server_faults.delete_keys: 4,
    kill_worker: 3,
    kill_producer: 1,
    server_faults.terminate_backends: 2,
}


def choose(random: Random, faults: dict[Break, int]) -> Break:
    """One of them, by weight."""
    return random.choices(list(faults), weights=list(faults.values()))[0]


def cut_some(world: World, random: Random) -> None:
    """Cut one connection of either hop after some further bytes."""
    hop = random.choice((world.to_redis, world.to_postgresql))
    hop.cut(random, random.choice(("rst", "fin")), within=random.choice((50, 500, 5_000)))


def _some_worker(world: World) -> Member:
    """One that has started, if one does soon: who is taken before has nothing to lose."""
    deadline = time.monotonic() + STARTS
    while not (ready := [each for each in world.fleet.living() if each.alive and each.ready]):
        if time.monotonic() > deadline:
            return world.random.choice(world.fleet.living())
        time.sleep(0.05)
    return world.random.choice(ready)


def _some_hop(world: World) -> Hop:
    return world.random.choice((world.to_redis, world.to_postgresql))


def _names(member: Member) -> frozenset[str]:
    return frozenset({member.name})
