"""What a job's own work costs, without a queue, a receipt or a worker: `python -m bench.alone own|shared|noop SECONDS`.

`own` is the peers' handler by SQLAlchemy's session, a transaction for each job, ten at once in one process; `shared` runs
100 of them in a transaction; `noop` is one INSERT, the least that can say that a job has run. A worker process whose jobs
have a commit each can't be faster than `own` and `noop`.
Runs in a peer's virtual environment and imports nothing of the product.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from uuid import uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from bench.peers import tables

AT_ONCE, TOGETHER = 10, 100
_RECEIPT = text(
    "INSERT INTO processed_job (job_id, kind, payload_hash) VALUES (:job_id, 'noop', '')"
)
Sessions = async_sessionmaker[AsyncSession]
Work = Callable[[Sessions], Awaitable[int]]


async def own(sessions: Sessions) -> int:
    """A task and its entry."""
    await tables.create(sessions, uuid4().hex, f"{time.time():.6f}")
    return 1


async def shared(sessions: Sessions) -> int:
    """A hundred tasks, each flushed for its id, and their entries."""
    async with sessions() as session:
        for _ in range(TOGETHER):
            task = tables.Task(title=f"{time.time():.6f}", project_id=1)
            session.add(task)
            await session.flush()
            session.add(tables.created(task, uuid4().hex))
        await session.commit()
    return TOGETHER


async def noop(sessions: Sessions) -> int:
    """One row."""
    async with sessions() as session:
        await session.execute(_RECEIPT, {"job_id": uuid4().hex})
        await session.commit()
    return 1


async def rate(work: Work, seconds: float) -> float:
    """Jobs a second."""
    engine, sessions = tables.asynchronous()
    try:
        await work(sessions)
        started = time.perf_counter()

        async def repeat() -> int:
            done = 0
            while time.perf_counter() < started + seconds:
                done += await work(sessions)
            return done

        done = sum(await asyncio.gather(*(repeat() for _ in range(AT_ONCE))))
        return done / (time.perf_counter() - started)
    finally:
        await engine.dispose()


if __name__ == "__main__":
    mode, seconds = sys.argv[1:]
    found = asyncio.run(rate({"own": own, "shared": shared, "noop": noop}[mode], float(seconds)))
    sys.stdout.write(f"{found}\n")
