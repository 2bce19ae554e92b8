"""Faults that wait for a step: while the party is asked, or right after it has answered, before the answer is recorded."""

import time

from tests.chaos import server_faults
from tests.chaos.fleet import Member
from tests.chaos.party import Moment
from tests.chaos.world import World

PATIENCE = 3.0  # seconds to wait for a step; without one the fault comes all the same
BEFORE_RECORD = 0.02  # seconds after an answer in which the record is under way


def kill_worker_in_step(world: World) -> None:
    """kill -9 of a worker that has just asked the party."""
    _kill(world, "kill_worker_in_step", _caller(world, "asked"))


def kill_worker_after_answer(world: World) -> None:
    """kill -9 of a worker that gets an answer: before it arrives, or before it is recorded."""
    _kill(world, "kill_worker_after_answer", _caller(world, "answered"))


def cut_worker_after_answer(world: World) -> None:
    """All connections of such a worker to PostgreSQL, or to Redis, break."""
    caller = _caller(world, "answered")
    hop = world.random.choice((world.to_postgresql, world.to_postgresql, world.to_redis))
    if caller:
        world.note("cut_worker_after_answer", victims=frozenset({caller.name}))
        hop.cut_all(world.random.choice(("rst", "fin")), caller.name)


def terminate_backends_after_answer(world: World) -> None:
    """`pg_terminate_backend` on some of the workers' connections."""
    _caller(world, "answered")
    server_faults.terminate_backends(world)


def restart_postgresql_after_answer(world: World) -> None:
    """The database is away when a step has its answer."""
    _caller(world, "answered")
    server_faults.restart_postgresql(world)


def _caller(world: World, moment: Moment) -> Member | None:
    """The worker that has asked, or gets the answer; None if there is none in time."""
    call = world.party.next_step(moment, PATIENCE)
    if moment == "answered":
        time.sleep(world.random.uniform(0, BEFORE_RECORD))
    living = {member.pid: member for member in world.fleet.living() if member.alive}
    return living.get(call.worker) if call else None


def _kill(world: World, name: str, member: Member | None) -> None:
    if member:
        world.note(name, victims=frozenset({member.name}))
        world.fleet.kill(member)
