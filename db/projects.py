"""Reads and changes of projects. Functions flush and never commit: the caller's transaction commits."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from db import lookups, writes
from db.inputs import NewProject, ProjectChanges
from db.models import Project
from ledgerq import audit
from ledgerq.audit import Action, Change, Origin
from ledgerq.errors import Refused
from ledgerq.sessions import flush, translated

MAX_AT_ONCE = 5_000  # a statement has 32,767 parameters at most


async def get(session: AsyncSession, project_id: int) -> Project:
    """One project.

    Raises:
        NotFound: there is no such project.
    """
    return await lookups.get(session, Project, project_id)


async def page(session: AsyncSession, *, after_id: int = 0, limit: int = 50) -> Sequence[Project]:
    """A page of projects, oldest first. For the next page, pass this page's last id as `after_id`."""
    return await lookups.page(session, Project, after_id=after_id, limit=limit)


async def create(session: AsyncSession, origin: Origin, new: NewProject) -> Project:
    """Add a project.

    Raises:
        AlreadyExists: another project has its key.
    """
    project = Project(**new.model_dump())
    await writes.add(session, origin, project)
    return project


async def update(
    session: AsyncSession,
    origin: Origin,
    project_id: int,
    changes: ProjectChanges,
    *,
    expected_version: int | None = None,
) -> Project:
    """Change the fields that are set in `changes`.

    Raises:
        NotFound: there is no such project.
        VersionConflict: the project is no longer at `expected_version`.
        AlreadyExists: another project has the new key.
    """
    project = await writes.lock(session, Project, project_id, expected_version)
    await writes.change(session, origin, project, writes.what_was_set(changes))
    return project


async def upsert_many(
    session: AsyncSession, origin: Origin, news: Sequence[NewProject]
) -> list[Project]:
    """Create the projects whose key is new, and change the others. Returns all of them, in the order given.

    Raises:
        Refused: a project has no key, two have the same key, or there are too many.
    """
    keys = [new.key for new in news]
    if len(keys) > MAX_AT_ONCE:
        raise Refused("key", f"at most {MAX_AT_ONCE} projects in one upsert")
    if not news:
        return []
    if None in keys or len(set(keys)) < len(keys):
        raise Refused("key", "each project of an upsert needs a key of its own")
    created = await _insert_new(session, news)
    existing = select(Project).where(col(Project.key).in_(keys)).order_by(col(Project.key))
    as_they_are = {"populate_existing": True}
    found = (await session.scalars(existing.with_for_update(), execution_options=as_they_are)).all()
    by_key = {project.key: project for project in found}
    changes = [
        Change.created(by_key[new.key])
        if new.key in created
        else writes.set_fields(by_key[new.key], writes.what_was_set(new))
        for new in news
    ]
    await flush(session, found)
    await audit.record(session, origin, *(change for change in changes if change))
    return [by_key[key] for key in keys]


async def delete(
    session: AsyncSession,
    origin: Origin,
    project_id: int,
    *,
    expected_version: int | None = None,
) -> None:
    """Delete a project's row. A project that has tasks, even only deleted ones, can't be deleted (restrict).

    Raises:
        NotFound: there is no such project.
        VersionConflict: the project is no longer at `expected_version`.
        StillReferenced: the project has tasks.
    """
    project = await writes.lock(session, Project, project_id, expected_version)
    await session.delete(project)
    with translated(deleting=True):
        await session.flush()
    await audit.record(session, origin, Change.gone(project, Action.DELETE))


async def _insert_new(session: AsyncSession, news: Sequence[NewProject]) -> set[str | None]:
    """Insert the projects whose key is new; returns their keys. In sorted order, so that two upserts don't deadlock."""
    insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    values = sorted((new.model_dump() for new in news), key=lambda each: str(each["key"]))
    added = insert(Project).values(values).on_conflict_do_nothing(index_elements=["key"])
    with translated():
        return set(await session.scalars(added.returning(col(Project.key))))
