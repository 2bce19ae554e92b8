"""Jobs on projects."""

from db import projects
from db.inputs import NewProject
from ledgerq import JobContext, Payload, job


class CreateProject(NewProject, Payload[int], kind="create_project"):
    """A project to create."""


@job(shares_commit=True)
async def create_project(context: JobContext, new: CreateProject) -> int:
    """Create a project. Returns its id."""
    project = await projects.create(context.session, context.origin, new)
    return project.id
