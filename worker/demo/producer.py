"""The demo's producer, `python -m worker.demo.producer JOBS SEED`. It uses Redis only, not the database.

It prints one line of JSON for each job that it has enqueued: the job's id, kind and payload.
"""

import asyncio
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from ledgerq import Payload, Request
from ledgerq.client import EnqueuedJob, JobClient, results
from ledgerq.settings import load
from ledgerq.workers import WorkerConfig
from worker.demo.plan import Plan

ACTOR = "agent:demo"


async def produce(jobs: int, seed: int) -> None:
    """Enqueue the jobs of the plan, first those whose ids later jobs need; returns when all have ended."""
    plan = Plan(jobs, seed=seed)
    async with JobClient.open(load(WorkerConfig)) as client:
        projects_jobs = await enqueue(client, plan.create_projects())
        worker_jobs = await enqueue(client, plan.create_workers())
        projects, workers = await results(projects_jobs), await results(worker_jobs)
        wanted = list(plan.create_tasks(projects, workers))
        tasks: list[int] = await results(await enqueue(client, wanted))
        parents = list(zip(tasks, wanted, strict=True))[: len(tasks) // 2]
        leaves = tasks[len(parents) :]  # tasks that get no subtasks, so that a delete marks one row
        moved, deleted = leaves[: plan.changes], leaves[plan.changes :]
        last = await enqueue(client, plan.create_subtasks(parents, workers))
        last += await enqueue(client, plan.change_statuses(moved))
        last += await enqueue(client, plan.delete_tasks(deleted))
        await results(last)


async def enqueue(client: JobClient, payloads: Iterable[Payload]) -> list[EnqueuedJob]:
    """Put the payloads on the queue as jobs, and print a line for each."""
    wanted = list(payloads)
    jobs = await client.enqueue_many(Request(payload, actor=ACTOR) for payload in wanted)
    _say(jobs, wanted)
    return jobs


def _say(jobs: Sequence[EnqueuedJob], payloads: Sequence[Payload]) -> None:
    for job, payload in zip(jobs, payloads, strict=True):
        line: dict[str, Any] = {
            "job_id": job.job_id,
            "kind": payload.kind,
            "payload": payload.model_dump(mode="json"),
        }
        print(json.dumps(line), flush=True)  # noqa: T201 - the parent process reads it


if __name__ == "__main__":
    asyncio.run(produce(int(sys.argv[1]), int(sys.argv[2])))
