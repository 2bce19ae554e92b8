"""Sessions: one task at a time, and the dependency for services."""

import asyncio
from typing import Annotated

from fastapi import Depends, FastAPI
from httpx import ASGITransport, AsyncClient
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from db.models import Project
from ledgerq.database.engine import Database, Sessions
from ledgerq.database.transaction import transaction
from ledgerq.errors import SessionShared
from ledgerq.fastapi import get_session, get_sessions
from tests.support import count, new_project


async def test_a_session_shared_by_two_tasks_is_caught_and_explained(
    any_sessions: Sessions,
) -> None:
    """Not a garbled protocol and not a hang: an error that says what to do instead."""
    async with any_sessions() as session:
        query = select(func.count()).select_from(Project)
        results = await asyncio.gather(
            *(session.scalar(query) for _ in range(3)), return_exceptions=True
        )
        assert results.count(0) == 1
        shared = [each for each in results if isinstance(each, SessionShared)]
        assert len(shared) == 2
        assert "open a session in each task" in str(shared[0])
        assert await session.scalar(query) == 0


async def test_a_session_may_pass_from_task_to_task(any_sessions: Sessions) -> None:
    """One after the other is fine."""
    async with any_sessions() as session:

        async def ask() -> int | None:
            return await session.scalar(select(func.count()).select_from(Project))

        assert await asyncio.create_task(ask()) == 0
        assert await ask() == 0


async def test_a_session_is_free_again_after_a_cancellation(sessions: Sessions) -> None:
    """The guard does not outlive the call that it guards."""
    async with sessions() as session:
        task = asyncio.create_task(session.execute(text("SELECT pg_sleep(10)")))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await session.rollback()
        assert await session.scalar(text("SELECT 1")) == 1


async def test_the_dependency_gives_each_request_a_session_and_leaks_none(
    database: Database,
) -> None:
    """A hundred requests at once, half of them failing: every connection is back in the pool."""
    service = FastAPI()
    service.state.database = database

    @service.get("/count/{fail}")
    async def counted(
        fail: bool, session: Annotated[AsyncSession, Depends(get_session)]
    ) -> int | None:
        found = await session.scalar(select(func.count()).select_from(Project))
        if fail:
            raise ZeroDivisionError
        return found

    @service.post("/projects")
    async def create(sessions: Annotated[Sessions, Depends(get_sessions)]) -> None:
        async with transaction(sessions) as session:
            session.add(Project(name="by request"))

    await new_project(database.sessions)
    transport = ASGITransport(service, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://test") as http:
        answers = await asyncio.gather(*(http.get(f"/count/{n % 2}") for n in range(100)))
        assert (await http.post("/projects")).status_code == 200
    assert sorted({answer.status_code for answer in answers}) == [200, 500]
    assert database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert await count(database.sessions, Project) == 2
