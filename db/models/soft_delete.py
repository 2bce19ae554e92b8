"""Hides deleted tasks, which stay in their table, from every read that does not ask for them."""

from sqlalchemy import event
from sqlalchemy.orm import ORMExecuteState, with_loader_criteria

from db.models.task import Task
from ledgerq.sessions import LedgerqSession

INCLUDE_DELETED = "include_deleted"  # execution option of a read that wants deleted tasks too

_LIVING_TASKS = with_loader_criteria(
    Task,
    lambda task: task.deleted_at.is_(None),
    include_aliases=True,
)


@event.listens_for(LedgerqSession.sync_session_class, "do_orm_execute")
def _hide_deleted(state: ORMExecuteState) -> None:
    """Leave deleted tasks out of a read and of its relationships, unless the read asks for them."""
    if (
        state.is_select
        and not state.is_column_load
        and not state.is_relationship_load
        and not state.execution_options.get(INCLUDE_DELETED, False)
    ):
        state.statement = state.statement.options(_LIVING_TASKS)
