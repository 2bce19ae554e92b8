"""From the moment before a job is enqueued to the moment its transaction is safe on disk.

A job's title is the time at which its producer set out; the database says when each transaction
committed (track_commit_timestamp). That is noted just before the flush to disk, so the time that a
flush takes here is measured and added, for everybody alike.
"""

import asyncio
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from bench.measure import begin, counter, until
from bench.processes import Contender, ask, workers
from bench.servers import Servers

WARM = 40  # jobs before those that count
_LATENCIES = """
SELECT extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 - (after ->> 'title')::float8
FROM audit_log ORDER BY id OFFSET $1
"""


async def latencies(
    servers: Servers, contender: Contender, rate: float, seconds: float
) -> dict[str, float]:
    """The percentiles, in milliseconds, of jobs that arrive so many a second."""
    await begin(servers, contender, "create")
    async with counter(servers, "create", Path()) as done:
        with workers(servers, contender, "create") as running:
            await asyncio.to_thread(ask, servers, contender, "fill", "create", WARM)
            await until(done, WARM, running)
            await asyncio.sleep(1)
            sent = await asyncio.to_thread(ask, servers, contender, "drip", str(rate), str(seconds))
            await until(done, WARM + sent["jobs"], running)
    async with servers.database() as database:
        rows = await database.fetch(_LATENCIES, WARM)
        flush = await flush_seconds(servers)
    return percentiles([(row[0] + flush) * 1000 for row in rows])


async def flush_seconds(servers: Servers) -> float:
    """What a flush to disk takes: a commit with one row, less a statement without."""
    async with servers.database() as database:
        await database.execute("CREATE TABLE IF NOT EXISTS flushed (at timestamptz)")
        writes, reads = [], []
        for _ in range(50):
            started = time.perf_counter()
            await database.execute("INSERT INTO flushed VALUES (now())")
            writes.append(time.perf_counter() - started)
            started = time.perf_counter()
            await database.execute("SELECT now()")
            reads.append(time.perf_counter() - started)
        await database.execute("DROP TABLE flushed")
    return max(0.0, statistics.median(writes) - statistics.median(reads))


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """The median, and what one in twenty and one in a hundred exceed."""
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98]}
