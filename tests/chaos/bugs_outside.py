"""Seeded bugs of the work outside of the database."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from ledgerq.database.transaction import transaction
from ledgerq.outside import Outside
from ledgerq.store import steps
from ledgerq.store.step_records import StepRecords, Work
from ledgerq.store.tables import JobStep, StepState
from tests.chaos.bugs_around import replace


def step_not_recorded() -> None:
    """The job goes on with the answer of a step, and the answer is not recorded."""

    async def forget(
        self: StepRecords, name: str, begun: datetime, result: Any, problem: str | None
    ) -> JobStep:
        return JobStep(**self._values(name, StepState.DONE, begun, result, problem))

    replace(StepRecords, finish=forget)


def records_not_read() -> None:
    """A later attempt does not read what an earlier one has recorded."""

    async def none(session: AsyncSession, job_id: str) -> Mapping[str, JobStep]:
        return {}

    replace(steps, of_running_job=none)


def intent_not_committed() -> None:
    """The intent of a step that is called at most once is rolled back before the call."""

    async def begin(self: StepRecords, name: str, begun: datetime) -> JobStep:
        values = self._values(name, StepState.BEGUN, begun)
        async with self.sessions() as session:
            await steps.add(session, values)
        return JobStep(**values)

    replace(StepRecords, begin=begin)


def key_of_the_run() -> None:
    """Each run has idempotency keys of its own."""
    run = uuid4().hex
    replace(Outside, key=lambda self, name: f"{run}-{self.job_id}-{name}")


def page_before_cursor() -> None:
    """A page's rows are committed before its cursor is."""
    advance = StepRecords.advance

    async def apart(self: StepRecords, name: str, value: Any, work: Work) -> None:
        async with transaction(self.sessions) as session:
            await self._fenced(session, work)

        async def nothing(session: AsyncSession) -> None:
            """The page is there."""

        await advance(self, name, value, nothing)

    replace(StepRecords, advance=apart)


def transaction_held_in_step() -> None:
    """A transaction is open while the party is asked."""
    step = Outside.step

    async def in_transaction(self: Outside[Any], *arguments: Any, **more: Any) -> Any:
        async with transaction(self._records.sessions) as session:
            await session.execute(text("SELECT 1"))  # PostgreSQL hears of it now
            return await step(self, *arguments, **more)

    replace(Outside, step=in_transaction)


def connection_held_in_step() -> None:
    """A connection is kept while the party is asked, without a transaction: PostgreSQL does not see it."""
    step = Outside.step

    async def with_connection(self: Outside[Any], *arguments: Any, **more: Any) -> Any:
        async with self._records.sessions.kw["bind"].connect():
            return await step(self, *arguments, **more)

    replace(Outside, step=with_connection)


IN_LAST_STEP = (
    step_not_recorded, records_not_read, intent_not_committed, key_of_the_run, page_before_cursor,
)  # fmt: skip
OUTSIDE = (*IN_LAST_STEP, transaction_held_in_step, connection_held_in_step)
