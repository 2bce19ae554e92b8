"""Audit entries by hand, of jobs that share a commit, are those of jobs with a commit each."""

from contextlib import suppress
from typing import Any

import pytest
from pydantic_core import PydanticSerializationError
from sqlalchemy import text

from ledgerq.audit import Change
from ledgerq.database.engine import Sessions
from ledgerq.database.transaction import savepoint, transaction
from ledgerq.errors import AlreadyExists
from ledgerq.execution.outcome import Completed
from ledgerq.job import JobContext
from ledgerq.store import inbox
from ledgerq.store.tables import AuditLog, ProcessedJob
from tests.integration.test_shared_commits import Handler, Odd, run
from tests.support import rows


async def a_flush_fails(context: JobContext, payload: Odd) -> None:
    with suppress(AlreadyExists):
        async with savepoint(context.session):
            await context.record(Change("shelf", f"undone {payload.n}", "emptied", {}, {"n": 1}))
            context.session.add(ProcessedJob(job_id="taken", kind="odd", payload_hash=b""))
            await context.session.flush()
    await context.record(Change("shelf", payload.n, "filled", {}, {"n": 2}))


async def undone_by_plain_sql(context: JobContext, payload: Odd) -> None:
    await context.session.execute(text("SAVEPOINT mine"))
    await context.record(Change("shelf", f"undone {payload.n}", "emptied", {}, {"n": 1}))
    await context.session.execute(text("ROLLBACK TO mine"))


async def changed_after_the_record(context: JobContext, payload: Odd) -> None:
    after: dict[str, Any] = {"seen": []}
    for n in range(3):
        after["seen"].append(n)
        await context.record(Change("shelf", f"{payload.n}-{n}", "filled", {}, after))


async def refused_by_half(context: JobContext, payload: Odd) -> None:
    fine, refused = (
        Change("shelf", payload.n, "filled", {}, {"n": value}) for value in (1, object())
    )
    with pytest.raises(PydanticSerializationError):
        await context.record(fine, refused)


HANDLERS = [a_flush_fails, undone_by_plain_sql, changed_after_the_record, refused_by_half]


@pytest.mark.parametrize("handle", HANDLERS)
async def test_entries_by_hand_are_those_of_own_commits(
    any_sessions: Sessions, handle: Handler
) -> None:
    """What a savepoint undoes leaves none, and each tells the values of its moment."""
    async with transaction(any_sessions) as session:
        await inbox.insert_receipt(session, "taken", "odd", b"")
    left = []
    for shared in (False, True):
        outcomes = await run(any_sessions, handle, 3, shared=shared)
        assert outcomes == [Completed(None)] * 3
        entries = await rows(any_sessions, AuditLog)
        left.append([(each.entity_id, each.action, each.after) for each in entries])
    own, both = left
    assert sorted(both[len(own) :], key=str) == sorted(own, key=str)
    assert not any(entity.startswith("undone") for entity, *_ in own)
