"""create_worker: a person or agent to assign tasks to. Answers with its id."""

from typing import ClassVar

from db import workers
from db.inputs import NewWorker
from ledgerq import JobContext, Kind, Payload


class CreateWorker(NewWorker, Payload):
    """A person or agent to create."""

    kind: ClassVar[str] = "create_worker"


async def handle(context: JobContext, new: CreateWorker) -> int:
    worker = await workers.create(context.session, context.origin, new)
    return worker.id


KIND = Kind(CreateWorker, handle, batchable=True)
