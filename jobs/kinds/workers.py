"""Jobs on workers: the people and agents that tasks are assigned to."""

from db import workers
from db.inputs import NewWorker
from ledgerq import JobContext, Payload, job


class CreateWorker(NewWorker, Payload[int], kind="create_worker"):
    """A person or agent to create."""


@job(shares_commit=True)
async def create_worker(context: JobContext, new: CreateWorker) -> int:
    """Create a person or agent to assign tasks to. Answers with its id."""
    worker = await workers.create(context.session, context.origin, new)
    return worker.id
