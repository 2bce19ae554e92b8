"""Sessions: one task at a time, deleted tasks out of sight, and the dependency for services."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import ORMExecuteState, Session, with_loader_criteria

from db.errors import SessionShared
from db.models import Task

INCLUDE_DELETED = "include_deleted"  # execution option of a read that wants deleted tasks too
TOGETHER = "changes wait, to be written together"  # in `info`: see db.writes.together


class _SyncSession(Session):
    """Ours, so that the event below is for our sessions alone."""


class LedgerqSession(AsyncSession):
    """A session that only one task may use at a time, and that does not see deleted tasks."""

    sync_session_class = _SyncSession
    _user: "asyncio.Task[Any] | None" = None


@event.listens_for(_SyncSession, "do_orm_execute")
def _hide_deleted(state: ORMExecuteState) -> None:
    """Every read, of relationships too, leaves deleted tasks out, unless it asks for them."""
    if (
        state.is_select
        and not state.is_column_load
        and not state.is_relationship_load
        and not state.execution_options.get(INCLUDE_DELETED, False)
    ):
        state.statement = state.statement.options(_LIVING_TASKS)


@event.listens_for(_SyncSession, "do_orm_execute")
def _write_what_waits(state: ORMExecuteState) -> None:
    """SQL of the caller's own sees what was changed before it, as it does where nothing waits."""
    if not state.is_orm_statement and TOGETHER in state.session.info:
        state.session.flush()


_LIVING_TASKS = with_loader_criteria(
    Task,
    lambda task: task.deleted_at.is_(None),
    include_aliases=True,
)


def _alone(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Refuse a second task while the first one awaits the method."""

    @functools.wraps(method)
    async def guarded(self: LedgerqSession, *args: Any, **kwargs: Any) -> Any:
        task, user = asyncio.current_task(), self._user
        if user is not None and user is not task:
            raise SessionShared
        self._user = task
        try:
            return await method(self, *args, **kwargs)
        finally:
            self._user = user

    return guarded


for _name in (
    "connection",
    "delete",
    "execute",
    "flush",
    "get",
    "get_one",
    "merge",
    "refresh",
    "run_sync",
    "scalar",
    "scalars",
    "stream",
    "stream_scalars",
):
    setattr(LedgerqSession, _name, _alone(getattr(AsyncSession, _name)))
