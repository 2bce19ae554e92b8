"""The same work without a queue, as segments: what a worker is measured against."""

import asyncio

from bench import core, pgbench
from bench.rounds import Pacing, Segment
from bench.servers import Servers, run
from bench.venvs import python_of


def create(servers: Servers) -> list[Segment]:
    """A task and its entry: by the ORM, by Core in batches, and by pgbench, if it is there."""

    async def batches(pace: Pacing) -> dict[str, float]:
        return {"create": await core.rows(servers, pace.seconds)}

    segments = [
        _alone(servers, "create", "alone", "own"),
        _alone(servers, "create", "alone-shared", "shared"),
        Segment("create", "core", batches),
    ]
    program = pgbench.binary(servers)
    if program is None:
        return segments

    async def one_by_one(pace: Pacing) -> dict[str, float]:
        return {"create": await pgbench.transactions(servers, program, pace.seconds)}

    return [*segments, Segment("create", "pgbench", one_by_one)]


def noop(servers: Servers) -> list[Segment]:
    """One row that says that a job has run."""
    return [_alone(servers, "noop", "alone", "noop")]


def _alone(servers: Servers, workload: str, name: str, mode: str) -> Segment:
    """A handler's own work, by SQLAlchemy in arq's environment."""

    async def work(pace: Pacing) -> dict[str, float]:
        await servers.begin_again("empty")
        command = [str(python_of("arq")), "-m", "bench.alone", mode, f"{pace.seconds}"]
        return {workload: float(await asyncio.to_thread(run, servers, command))}

    return Segment(workload, name, work)
