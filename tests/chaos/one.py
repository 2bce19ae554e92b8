"""One delivery or more of one job, without a queue: `python -m tests.chaos.one SPEC`, SPEC as JSON.

It says `acknowledged` where the engine would take the job off the queue. A seeded bug is put in by
CHAOS_BUG; with CHAOS_CRASH it kills itself in the bug's window, or else right after acknowledging.
"""

import asyncio
import json
import os
import sys
from typing import Any

import ledgerq.execution.process
from db.database import open_database
from ledgerq.database.engine import Database
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.transaction import transaction
from ledgerq.errors import Deadlock
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.outcome import Outcome, Retry
from ledgerq.execution.retry import Policy
from ledgerq.staging import stage_many
from ledgerq.wire.request import Request
from tests.chaos import bugs
from tests.chaos.kinds import ChaosEffects, registry


async def run(spec: dict[str, Any]) -> None:
    """Deliver the job as often as asked, one after another or together."""
    async with open_database(_config(spec)) as database:
        if spec.get("opposite"):
            await stage_in_opposite_orders(database, spec["project"])
            return
        times = range(spec.get("times", 1))
        if spec.get("together"):
            await asyncio.gather(*(deliver(database, spec, number + 1) for number in times))
        else:
            await one_after_another(database, spec, len(times))
        if "cancel_after" not in spec:
            await asyncio.sleep(0.5)  # for what a bug leaves to the background


def _config(spec: dict[str, Any]) -> DatabaseConfig:
    return DatabaseConfig(url=spec["url"], idle_in_transaction_timeout=spec.get("idle", 10))


async def one_after_another(database: Database, spec: dict[str, Any], times: int) -> None:
    """As often as asked; attempts and interruptions are counted as the engine does."""
    attempt = interruptions = 0
    for _ in range(times):
        outcome = await deliver(database, spec, attempt + 1, interruptions)
        attempt += not isinstance(outcome, Retry) or outcome.counts_as_attempt
        interruptions += isinstance(outcome, Retry) and outcome.interrupted


async def deliver(
    database: Database, spec: dict[str, Any], attempt: int, interruptions: int = 0
) -> Outcome | None:
    """One delivery to its end, as the engine would do it."""
    body = json.dumps(
        {"f": spec["kind"], "k": spec["fields"], "a": [], "t": None, "et": 1}
    ).encode()
    if spec.get("staged"):
        mark = "1" if spec["staged"] is True else spec["staged"]
        body = body.replace(b'"k": {', f'"n": 1, "k": {{"_staged": "{mark}", '.encode())
    delivery = Delivery(spec["job_id"], attempt, body, interruptions=interruptions)
    policy = Policy(timeout=30, backoff=0.01)
    job = asyncio.ensure_future(
        ledgerq.execution.process.process([delivery], registry(), database.sessions, policy)
    )
    if "cancel_after" in spec:
        await asyncio.sleep(spec["cancel_after"])
        job.cancel()
    await asyncio.wait({job})
    outcome = None if job.cancelled() else job.result()[0]
    if outcome and not isinstance(outcome, Retry):
        print("acknowledged", flush=True)  # noqa: T201 - its output is what it is for
        bugs.crash()
    return outcome


async def stage_in_opposite_orders(database: Database, project: int) -> None:
    """Two producers stage the same three jobs at once, the one from the end; they meet in the middle.

    A third one holds the middle until both wait for it: so they meet each time.
    """
    ids = ["batch-a", "batch-m", "batch-z"]

    async def stage(job_ids: list[str]) -> None:
        requests = [Request(ChaosEffects(project_id=project), job_id) for job_id in job_ids]
        try:
            async with transaction(database.sessions) as session:
                await stage_many(session, requests)
        except Deadlock:
            print("deadlock", flush=True)  # noqa: T201 - as above

    async with database.sessions() as third:
        await stage_many(third, [Request(ChaosEffects(project_id=project), ids[1])])
        both = asyncio.gather(stage(ids), stage(ids[::-1]))
        await asyncio.sleep(0.5)
        await third.rollback()
    await both


if __name__ == "__main__":
    bugs.install(os.environ.get("CHAOS_BUG", ""))
    asyncio.run(run(json.loads(sys.argv[1])))
