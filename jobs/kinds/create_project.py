"""create_project: a project to put tasks in. Answers with its id."""

from typing import ClassVar

from db import projects
from db.inputs import NewProject
from ledgerq import JobContext, Kind, Payload


class CreateProject(NewProject, Payload):
    """A project to create."""

    kind: ClassVar[str] = "create_project"


async def handle(context: JobContext, new: CreateProject) -> int:
    project = await projects.create(context.session, context.origin, new)
    return project.id


KIND = Kind(CreateProject, handle, batchable=True)
