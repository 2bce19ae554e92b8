"""Jobs on workers: the people and agents to whom tasks are assigned."""

from db import workers
from db.inputs import NewWorker
from ledgerq import JobContext, Payload, job


class CreateWorker(NewWorker, Payload[int], kind="create_worker"):
    """A person or agent to create."""


@job(shares_commit=True)
async def create_worker(context: JobContext, new: CreateWorker) -> int:
    """Create a person or agent, to whom tasks can be assigned. Returns the id."""
    worker = await workers.create(context.session, context.origin, new)
    return worker.id
