"""The other yardstick: the same two inserts by SQLAlchemy Core, 100 of each in a transaction, without queue or receipts."""

import asyncio
import time

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from bench.servers import Servers
from db.models import Task
from ledgerq.store.tables import AuditLog

BATCH, CONNECTIONS = 100, 4
_TASK = {"title": "1700000000.000000", "project_id": 1}
_ENTRY = {
    "entity_type": "task",
    "action": "create",
    "actor": "bench",
    "before": {},
    "after": {**_TASK, "status": "todo", "priority": "normal"},
    "kind": "create_task",
    "attempt": 1,
}


async def rows(servers: Servers, seconds: float) -> float:
    """Tasks a second on a fresh database, each with its entry."""
    await servers.begin_again("empty")
    url = servers.database_url.replace("postgresql://", "postgresql+asyncpg://")
    engine = create_async_engine(url, pool_size=CONNECTIONS)
    try:
        started = time.perf_counter()
        made = await asyncio.gather(
            *(_insert(engine, started + seconds) for _ in range(CONNECTIONS))
        )
        return sum(made) / (time.perf_counter() - started)
    finally:
        await engine.dispose()


async def _insert(engine: AsyncEngine, until: float) -> int:
    made = 0
    new_tasks = insert(Task).returning(Task.id)  # type: ignore[call-overload]
    while time.perf_counter() < until:
        async with engine.begin() as connection:
            ids = (await connection.scalars(new_tasks, [_TASK] * BATCH)).all()
            entries = [{**_ENTRY, "entity_id": str(each), "job_id": str(each)} for each in ids]
            await connection.execute(insert(AuditLog), entries)
        made += BATCH
    return made
