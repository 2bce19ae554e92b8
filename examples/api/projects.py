"""Projects: written directly, in one transaction of the request."""

from typing import Annotated

from fastapi import APIRouter, Depends

from db import projects
from db.inputs import Id, NewProject, ProjectChanges
from examples.api.views import ProjectView
from ledgerq.audit import Origin
from ledgerq.fastapi import get_sessions
from ledgerq.sessions import Sessions, transaction

router = APIRouter(prefix="/projects")

Writing = Annotated[Sessions, Depends(get_sessions)]
BY_REQUEST = Origin(actor="service:api")


@router.post("", status_code=201)
async def create_project(new: NewProject, sessions: Writing) -> ProjectView:
    """The project and its audit entry, committed before the answer."""
    async with transaction(sessions) as session:
        project = await projects.create(session, BY_REQUEST, new)
    return ProjectView.model_validate(project)


@router.patch("/{project_id}")
async def update_project(
    project_id: Id, changes: ProjectChanges, sessions: Writing, expected_version: int | None = None
) -> ProjectView:
    """Change what is in the body; 409 if somebody else was faster."""
    async with transaction(sessions) as session:
        project = await projects.update(
            session, BY_REQUEST, project_id, changes, expected_version=expected_version
        )
    return ProjectView.model_validate(project)


@router.delete("/{project_id}", status_code=204)
async def delete_project(project_id: Id, sessions: Writing) -> None:
    """409 while it has tasks."""
    async with transaction(sessions) as session:
        await projects.delete(session, BY_REQUEST, project_id)
