"""Reading and changing workers, the people and agents. Functions flush and never commit."""

from sqlalchemy.ext.asyncio import AsyncSession

from db import audit
from db.audit import Change, Origin
from db.inputs import NewWorker
from db.models import Worker


async def create(session: AsyncSession, origin: Origin, new: NewWorker) -> Worker:
    """Add a worker."""
    worker = Worker(name=new.name, type=new.type)
    session.add(worker)
    await session.flush()
    await audit.record(session, origin, Change.created(worker))
    return worker
