"""Reading and changing projects. Functions flush and never commit: the caller's transaction does."""

from sqlalchemy.ext.asyncio import AsyncSession

from db import audit
from db.audit import Change, Origin
from db.inputs import NewProject
from db.models import Project


async def create(session: AsyncSession, origin: Origin, new: NewProject) -> Project:
    """Add a project."""
    project = Project(name=new.name, description=new.description)
    session.add(project)
    await session.flush()
    await audit.record(session, origin, Change.created(project))
    return project
