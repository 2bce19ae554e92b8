"""What the test-only kinds have in common: each leaves a known number of tasks."""

import asyncio
from typing import Annotated

from pydantic import Field

from db import tasks
from db.inputs import NewTask
from ledgerq.job import JobContext
from ledgerq.wire.payload import Payload


class Effects(Payload):
    """How many tasks the job leaves, and where."""

    project_id: int
    effects: Annotated[int, Field(ge=1, le=100)] = 1


async def leave(
    context: JobContext, job: Effects, pause: float = 0.0, *, most: int = 100
) -> list[int]:
    """Make the job's tasks, or the first of them; their ids."""
    made = []
    for number in range(min(job.effects, most)):
        new = NewTask(title=f"{context.origin.job_id} {number}", project_id=job.project_id)
        made.append((await tasks.create(context.session, context.origin, new)).id)
        if pause:
            await asyncio.sleep(pause)
    return made
