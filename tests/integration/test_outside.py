"""Jobs that work outside of the database: called at least once, recorded once, with nothing held while they wait."""

import asyncio
import threading
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, computed_field
from sqlalchemy import text

import ledgerq.database.transaction
import ledgerq.execution.dead_letter
import ledgerq.execution.process
from db import projects
from db.inputs import NewProject
from db.models import Project
from jobs.kinds import CreateProject, create_project
from ledgerq import DefinitionError, JobContext, Kind, Outside, Payload, Permanent, RetryLater, job
from ledgerq.admin.steps import resolve
from ledgerq.client import JobClient
from ledgerq.config import Config
from ledgerq.database.engine import Database, Sessions
from ledgerq.database.session import LedgerqSession
from ledgerq.database.transaction import transaction
from ledgerq.errors import (
    Deadlock,
    Disconnected,
    InDoubt,
    InvalidRequest,
    InvalidResult,
    LockTimeout,
    NotReplayable,
)
from ledgerq.execution import interventions, replays
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.outcome import Buried, Completed, Duplicate, Outcome, Retry
from ledgerq.execution.registry import Registry
from ledgerq.execution.retry import Policy
from ledgerq.store import audit, inbox, steps
from ledgerq.store.step_records import StepRecords
from ledgerq.store.tables import JobState, JobStep, StepState
from ledgerq.wire.step_names import StepLimits
from tests.support import count, delivery, eventually, halt, letter, our_worker, process_one, rows

POLICY = Policy(timeout=5, max_attempts=3)


class Receipt(BaseModel):
    """What the payment service answers."""

    id: UUID
    amount: int


@dataclass
class Payments:
    """A payment service that honours idempotency keys, and counts."""

    calls: list[str] = field(default_factory=list)
    fails: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    held: asyncio.Event | None = None

    async def charge(self, amount: int, *, idempotency_key: str) -> Receipt:
        self.calls.append(idempotency_key)
        self.asked.set()
        if self.held:
            await self.held.wait()
        if len(self.calls) <= self.fails:
            raise ConnectionError("the payment service is away")
        return Receipt(id=UUID(idempotency_key), amount=amount)


class Charge(Payload[str], kind="charge"):
    """An amount to charge."""

    amount: int = 7


async def pay(outside: Outside[Payments], charge: Charge) -> Receipt:
    return await outside.step(
        "charge", outside.resources.charge, charge.amount, idempotency_key=outside.key("charge")
    )


@job(outside=pay)
async def charge(context: JobContext[Payments], charge: Charge, receipt: Receipt) -> str:
    assert isinstance(receipt, Receipt)
    project = await projects.create(
        context.session, context.origin, NewProject(name=f"{receipt.amount}")
    )
    return f"{receipt.id.hex} {project.id}"


def run(sessions: Sessions, payments: Any, arrived: Delivery, kind: Kind[Any, Any] = charge) -> Any:
    return process_one(arrived, Registry([kind], payments), sessions, POLICY)


async def test_the_handler_gets_what_was_answered_outside(any_sessions: Sessions) -> None:
    """In its type; the step, its entry and the job's row are there."""
    payments = Payments()
    outcome = await run(any_sessions, payments, delivery(Charge()))
    [key] = payments.calls
    assert outcome == Completed(f"{key} 1")
    [step] = await rows(any_sessions, JobStep)
    assert (step.name, step.result, step.attempt) == (
        "charge",
        {"id": str(UUID(key)), "amount": 7},
        1,
    )
    async with any_sessions() as session:
        entries = await audit.of_job(session, "job-1")
    assert [(each.action, each.after.get("step")) for each in entries] == [
        ("step", "charge"),
        ("create", None),
    ]


async def test_a_recorded_step_is_not_called_again(any_sessions: Sessions) -> None:
    """The next attempt reads what it answered, though it failed after it."""
    payments = Payments()
    tries = 0

    async def pay_then_fail(outside: Outside[Payments], charge: Charge) -> Receipt:
        nonlocal tries
        receipt = await pay(outside, charge)
        tries += 1
        if tries == 1:
            raise RetryLater(1)
        return receipt

    kind = job(outside=pay_then_fail)(charge.handle)
    assert isinstance(await run(any_sessions, payments, delivery(Charge()), kind), Retry)
    assert await count(any_sessions, Project) == 0
    outcome = await run(any_sessions, payments, delivery(Charge(), attempt=2), kind)
    assert isinstance(outcome, Completed)
    assert len(payments.calls) == 1
    assert await count(any_sessions, JobStep) == 1


async def test_a_failed_step_is_called_again_with_the_same_key(any_sessions: Sessions) -> None:
    """It spends an attempt of the job."""
    payments = Payments(fails=1)
    first = await run(any_sessions, payments, delivery(Charge()))
    assert isinstance(first, Retry)
    assert first.counts_as_attempt
    assert isinstance(await run(any_sessions, payments, delivery(Charge(), attempt=2)), Completed)
    assert len(payments.calls) == 2
    assert len(set(payments.calls)) == 1


async def test_a_duplicate_calls_nothing(any_sessions: Sessions) -> None:
    """The job has ended: nothing outside is asked."""
    payments = Payments()
    done = await run(any_sessions, payments, delivery(Charge()))
    assert isinstance(done, Completed)
    again = await run(any_sessions, payments, delivery(Charge()))
    assert again == Duplicate(JobState.DONE, done.result)
    assert len(payments.calls) == 1


async def test_nothing_is_held_while_it_waits(database: Database) -> None:
    """No connection of the pool is out, and none is in a transaction."""
    payments = Payments(held=asyncio.Event())
    running = asyncio.create_task(run(database.sessions, payments, delivery(Charge())))
    await payments.asked.wait()
    assert database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    payments.held.set()  # type: ignore[union-attr]
    assert isinstance(await running, Completed)


async def test_a_job_that_is_cancelled_while_it_waits_leaves_no_effect(
    any_sessions: Sessions,
) -> None:
    """The log says that the step has happened."""
    payments = Payments(held=asyncio.Event())
    running = asyncio.create_task(run(any_sessions, payments, delivery(Charge())))
    await payments.asked.wait()
    async with transaction(any_sessions) as session:
        await interventions.cancel(session, "job-1", actor="ada", reason="too much")
    payments.held.set()  # type: ignore[union-attr]
    assert await running == Duplicate(JobState.CANCELLED)
    assert (await count(any_sessions, JobStep), await count(any_sessions, Project)) == (0, 0)
    async with any_sessions() as session:
        entries = await audit.of_job(session, "job-1")
    assert entries[-1].after == {"step": "charge", "recorded": False}


async def test_two_deliveries_that_race_record_one_answer(any_sessions: Sessions) -> None:
    """The second one takes what the first one has recorded."""
    one, two = Payments(held=asyncio.Event()), Payments(held=asyncio.Event())
    tasks = [
        asyncio.create_task(run(any_sessions, each, delivery(Charge()))) for each in (one, two)
    ]
    for each in (one, two):
        await each.asked.wait()
    for each in (one, two):
        each.held.set()  # type: ignore[union-attr]
    outcomes: list[Outcome] = list(await asyncio.gather(*tasks))
    assert {type(each) for each in outcomes} == {Completed, Duplicate}
    assert await count(any_sessions, JobStep) == 1
    assert await count(any_sessions, Project) == 1


@pytest.mark.parametrize(
    ("answer", "problem"),
    [(object(), "is not JSON"), ("x" * 300_000, "300002"), (float("nan"), "nan")],
)
async def test_an_answer_that_cannot_be_kept_buries_the_job_and_is_not_asked_for_again(
    any_sessions: Sessions, answer: object, problem: str
) -> None:
    """The step counts as done: its effect has happened."""
    calls = []

    async def ask() -> Any:
        calls.append(1)
        return answer

    async def outside_of_it(outside: Outside, charge: Charge) -> Receipt:
        return await outside.step("ask", ask)

    kind = job(outside=outside_of_it)(charge.handle)
    outcome = await run(any_sessions, None, delivery(Charge()), kind)
    assert isinstance(outcome, Buried)
    found = await letter(any_sessions, "job-1")
    assert found.reason == "step_unusable"
    assert problem in found.error
    async with transaction(any_sessions) as session:
        await replays.replay(session, ["job-1"], actor="ada", reason="again")
    assert isinstance(await run(any_sessions, None, delivery(Charge()), kind), Buried)
    assert len(calls) == 1


@pytest.mark.parametrize(("fields", "calls"), [(None, 1), ({"amount": 8}, 2)])
async def test_a_replay_keeps_the_steps_of_the_same_fields(
    any_sessions: Sessions, fields: dict[str, Any] | None, calls: int
) -> None:
    """What was answered for other ones is worth nothing."""
    payments = Payments()

    async def pay_then_fail(outside: Outside[Payments], charge: Charge) -> Receipt:
        await pay(outside, charge)
        raise Permanent("out of paper")

    kind = job(outside=pay_then_fail)(charge.handle)
    assert isinstance(await run(any_sessions, payments, delivery(Charge()), kind), Buried)
    async with transaction(any_sessions) as session:
        await replays.replay(session, ["job-1"], actor="ada", reason="x", payload=fields)
    again = delivery(Charge(**(fields or {})))
    assert isinstance(await run(any_sessions, payments, again), Completed)
    assert len(payments.calls) == calls


async def test_steps_of_another_payload_are_not_taken_for_this_ones(any_sessions: Sessions) -> None:
    """An id that is used again for other work is refused, as after the job's end."""
    payments = Payments(fails=0)

    async def pay_then_fail(outside: Outside[Payments], charge: Charge) -> Receipt:
        await pay(outside, charge)
        raise RetryLater(1)

    kind = job(outside=pay_then_fail)(charge.handle)
    await run(any_sessions, payments, delivery(Charge()), kind)
    outcome = await run(any_sessions, payments, delivery(Charge(amount=9)), kind)
    assert isinstance(outcome, Buried)
    assert outcome.reason == "payload_mismatch"
    assert len(payments.calls) == 1


async def test_a_name_that_is_used_twice_is_refused(any_sessions: Sessions) -> None:
    """Steps are known by their names alone."""

    async def twice(outside: Outside[Payments], charge: Charge) -> Receipt:
        await pay(outside, charge)
        return await pay(outside, charge)

    outcome = await run(
        any_sessions, Payments(), delivery(Charge()), job(outside=twice)(charge.handle)
    )
    assert isinstance(outcome, Buried)
    assert "step charge: is there twice" in str(outcome.error)


async def test_steps_may_run_at_the_same_time(any_sessions: Sessions) -> None:
    """Each has its own record."""
    payments = Payments()

    async def many(outside: Outside[Payments], charge: Charge) -> Receipt:
        receipts = await asyncio.gather(
            *(
                outside.step(
                    f"charge:{n}", payments.charge, n, idempotency_key=outside.key(f"charge:{n}")
                )
                for n in range(5)
            )
        )
        return receipts[3]

    kind = job(outside=many)(charge.handle)
    assert isinstance(await run(any_sessions, payments, delivery(Charge()), kind), Completed)
    assert len(set(payments.calls)) == 5
    assert await count(any_sessions, JobStep) == 5


async def test_what_is_read_outside_is_read_in_a_session_of_its_own(database: Database) -> None:
    """It holds its connection no longer than the reading takes, and writes nothing."""

    async def write(session: LedgerqSession, name: str) -> int:
        session.add(Project(name=name))
        await session.flush()
        return len((await session.execute(text("SELECT 1"))).all())

    async def read(outside: Outside[Payments], charge: Charge) -> Receipt:
        assert await outside.read(write, "x") == 1
        assert database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        return await pay(outside, charge)

    kind = job(outside=read)(charge.handle)
    assert isinstance(await run(database.sessions, Payments(), delivery(Charge()), kind), Completed)
    assert [each.name for each in await rows(database.sessions, Project)] == ["7"]


async def test_a_step_that_takes_too_long_is_named(any_sessions: Sessions) -> None:
    """By its own limit, and by that of the job."""

    async def slow(outside: Outside[Payments], charge: Charge) -> Receipt:
        return await outside.step(
            "charge", outside.resources.charge, 1, idempotency_key="0" * 32, timeout=0.05
        )

    payments = Payments(held=asyncio.Event())
    outcome = await run(
        any_sessions, payments, delivery(Charge()), job(outside=slow)(charge.handle)
    )
    assert isinstance(outcome, Retry)
    assert "Payments.charge took longer than 0.05 s" in str(outcome.error)


async def test_steps_go_with_the_receipt(any_sessions: Sessions) -> None:
    """Not before it."""
    await run(any_sessions, Payments(), delivery(Charge()))
    async with transaction(any_sessions) as session:
        assert (
            await inbox.prune(session, ended_before=datetime.now(UTC) - timedelta(days=1), limit=9)
            == 0
        )
    assert await count(any_sessions, JobStep) == 1
    async with transaction(any_sessions) as session:
        assert (
            await inbox.prune(session, ended_before=datetime.now(UTC) + timedelta(days=1), limit=9)
            == 1
        )
    assert await count(any_sessions, JobStep) == 0


def test_what_cannot_work_is_refused_at_import() -> None:
    """With the argument at fault."""

    async def no_answer(context: JobContext, charge: Charge) -> str:
        return ""

    async def wrong_answer(context: JobContext, charge: Charge, receipt: int) -> str:
        return ""

    for handler, problem in ((no_answer, "three arguments"), (wrong_answer, "Receipt")):
        with pytest.raises(DefinitionError, match=problem):
            job(outside=pay)(handler)  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="is a plain def; write async def"):
        job(outside=lambda outside, charge: None)(charge.handle)  # type: ignore[arg-type, return-value]
    with pytest.raises(DefinitionError, match="share a commit"):
        Kind(Charge, charge.handle, outside=pay, shares_commit=True)
    with pytest.raises(DefinitionError, match="function for many"):
        charge.many(no_answer)  # type: ignore[arg-type]


async def test_a_type_that_json_cannot_carry_is_refused_before_the_call(
    any_sessions: Sessions,
) -> None:
    """Nothing has happened yet."""
    calls = []

    async def ask() -> asyncio.Event:
        calls.append(1)
        return asyncio.Event()

    async def outside_of_it(outside: Outside, charge: Charge) -> Receipt:
        await outside.step("ask", ask)
        raise AssertionError

    kind = job(outside=outside_of_it)(charge.handle)
    outcome = await run(any_sessions, None, delivery(Charge()), kind)
    assert "JSON can't carry such an answer" in str(outcome.error)
    assert calls == []


def test_a_key_is_of_the_job_its_payload_and_the_name() -> None:
    """And of nothing else: each attempt has the same."""

    def key(name: str, *, job_id: str = "job-1", attempt: int = 1, payload: bytes = b"p") -> str:
        origin = audit.Origin("x", job_id, "charge", attempt)
        return Outside(origin, None, StepRecords(None, origin, payload, {}), StepLimits()).key(name)  # type: ignore[arg-type]

    assert key("a") == key("a", attempt=2)
    assert len({key("a"), key("b"), key("a", payload=b"q"), key("a", job_id="job-2")}) == 4
    assert len(key("a")) == 32


def once_only() -> Kind[Charge, str]:
    """Charges by a service that knows no idempotency keys."""

    async def pay_once(outside: Outside[Payments], charge: Charge) -> Receipt:
        return await outside.step(
            "charge",
            outside.resources.charge,
            charge.amount,
            idempotency_key="0" * 32,
            at_most_once=True,
        )

    return job(outside=pay_once)(charge.handle)


async def test_a_step_that_is_called_at_most_once_is_in_doubt_after_a_failure(
    any_sessions: Sessions,
) -> None:
    """A person decides; the call is not made again, by a replay neither."""
    payments = Payments(fails=1)
    kind = once_only()
    outcome = await run(any_sessions, payments, delivery(Charge()), kind)
    assert isinstance(outcome, Buried)
    assert outcome.reason == "in_doubt"
    [step] = await rows(any_sessions, JobStep)
    assert step.state == StepState.BEGUN
    async with transaction(any_sessions) as session:
        await replays.replay(session, ["job-1"], actor="ada", reason="x")
    assert isinstance(await run(any_sessions, payments, delivery(Charge()), kind), Buried)
    assert len(payments.calls) == 1


async def test_a_step_that_is_called_at_most_once_is_done_like_another(
    any_sessions: Sessions,
) -> None:
    """If nothing goes wrong."""
    payments = Payments()
    assert isinstance(await run(any_sessions, payments, delivery(Charge()), once_only()), Completed)
    [step] = await rows(any_sessions, JobStep)
    assert step.state == StepState.DONE


async def test_a_worker_that_dies_in_a_call_leaves_it_in_doubt(any_sessions: Sessions) -> None:
    """The next attempt finds the intent."""
    payments = Payments(held=asyncio.Event())
    dying = asyncio.create_task(run(any_sessions, payments, delivery(Charge()), once_only()))
    await payments.asked.wait()
    dying.cancel()
    await asyncio.wait([dying])
    outcome = await run(any_sessions, payments, delivery(Charge(), attempt=2), once_only())
    assert isinstance(outcome, Buried)
    assert outcome.reason == "in_doubt"
    assert len(payments.calls) == 1


async def test_rows_of_a_transaction_outside_stand_and_are_written_once(
    any_sessions: Sessions,
) -> None:
    """Though the job fails after them; with the entries of that job."""

    async def add(context: JobContext[Any], name: str) -> int:
        return (await projects.create(context.session, context.origin, NewProject(name=name))).id

    async def reserve(outside: Outside[Payments], charge: Charge) -> Receipt:
        assert await outside.transaction("reserve", add, "reserved") == 1
        if outside.attempt == 1:
            raise RetryLater(1)
        return await pay(outside, charge)

    kind = job(outside=reserve)(charge.handle)
    assert isinstance(await run(any_sessions, Payments(), delivery(Charge()), kind), Retry)
    assert [each.name for each in await rows(any_sessions, Project)] == ["reserved"]
    await run(any_sessions, Payments(), delivery(Charge(), attempt=2), kind)
    assert [each.name for each in await rows(any_sessions, Project)] == ["reserved", "7"]
    async with any_sessions() as session:
        entries = await audit.of_job(session, "job-1")
    assert [each.action for each in entries] == ["create", "step", "step", "create"]


async def test_a_transaction_outside_that_fails_leaves_neither_rows_nor_record(
    any_sessions: Sessions,
) -> None:
    """And it can't be ended from within."""

    async def add(context: JobContext[Any]) -> int:
        await projects.create(context.session, context.origin, NewProject(name="x"))
        await context.session.commit()
        return 1

    async def reserve(outside: Outside[Payments], charge: Charge) -> Receipt:
        await outside.transaction("reserve", add)
        raise AssertionError

    outcome = await run(any_sessions, None, delivery(Charge()), job(outside=reserve)(charge.handle))
    assert isinstance(outcome, Buried)
    assert outcome.reason == "not_allowed_in_job"
    assert (await count(any_sessions, Project), await count(any_sessions, JobStep)) == (0, 0)


async def add_page(context: JobContext[Any], names: list[str]) -> None:
    for name in names:
        await projects.create(context.session, context.origin, NewProject(name=name))


def importing(fail_at: int, *, moved: asyncio.Event | None = None) -> Kind[Charge, str]:
    """Imports six rows, two on a page; fails in its first attempt."""

    async def pages(outside: Outside[Any], charge: Charge) -> Receipt:
        after, total = outside.cursor("rows", start=(0, 0))
        while after < 6:
            if outside.attempt == 1 and after == fail_at:
                raise RetryLater(1)
            if moved:
                await moved.wait()
            after, total = after + 2, total + 2
            names = [f"row {n}" for n in range(after - 2, after)]
            await outside.advance("rows", (after, total), add_page, names)
            await outside.progress(total, of=6)
        return Receipt(id=UUID(int=0), amount=total)

    return job(outside=pages)(charge.handle)


@pytest.mark.parametrize("fail_at", [0, 2, 4])
async def test_a_loop_over_pages_goes_on_where_it_was(any_sessions: Sessions, fail_at: int) -> None:
    """Each page is written once, and the cursor has its type again."""
    assert isinstance(await run(any_sessions, None, delivery(Charge()), importing(fail_at)), Retry)
    assert await count(any_sessions, Project) == fail_at
    again = await run(any_sessions, None, delivery(Charge(), attempt=2), importing(fail_at))
    assert isinstance(again, Completed)
    names = [each.name for each in await rows(any_sessions, Project)]
    assert names == [*(f"row {n}" for n in range(6)), "6"]
    async with any_sessions() as session:
        told = await steps.progress_of(session, "job-1")
    assert told
    assert (told.done, told.total) == (6, 6)


async def test_two_workers_in_one_loop_write_each_page_once(any_sessions: Sessions) -> None:
    """The one that comes second does not go on; it spends no attempt."""
    gate = asyncio.Event()
    kind = importing(-1, moved=gate)
    tasks = [asyncio.create_task(run(any_sessions, None, delivery(Charge()), kind)) for _ in "ab"]
    gate.set()
    outcomes: list[Outcome] = list(await asyncio.gather(*tasks))
    names = sorted(each.name for each in await rows(any_sessions, Project))
    assert names == ["6", *(f"row {n}" for n in range(6))]
    [other] = [each for each in outcomes if not isinstance(each, Completed)]
    assert isinstance(other, Duplicate) or not other.counts_as_attempt  # type: ignore[union-attr]


async def test_a_plain_function_runs_in_a_thread(any_sessions: Sessions) -> None:
    """As a step, or called."""
    threads = []

    def ask(amount: int) -> Receipt:
        threads.append(threading.current_thread())
        return Receipt(id=UUID(int=1), amount=amount)

    async def pay_by_thread(outside: Outside[Any], charge: Charge) -> Receipt:
        await outside.call(ask, charge.amount)
        return await outside.step("charge", ask, charge.amount)

    kind = job(outside=pay_by_thread)(charge.handle)
    assert isinstance(await run(any_sessions, None, delivery(Charge()), kind), Completed)
    assert len(threads) == 2
    assert threading.main_thread() not in threads


async def test_an_answer_is_recorded_though_the_database_is_away_for_a_while(
    any_sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call is not made again."""
    payments, add, away = Payments(), steps.add_and_tell, [Disconnected(), Disconnected()]

    async def add_later(*args: Any) -> bool:
        if away:
            raise away.pop()
        return await add(*args)

    monkeypatch.setattr(steps, "add_and_tell", add_later)
    assert isinstance(await run(any_sessions, payments, delivery(Charge())), Completed)
    assert len(payments.calls) == 1
    assert away == []


class Wait(Payload[None], kind="wait"):
    """Waits at the party until the test lets it go."""


async def test_waiting_jobs_take_no_slot_and_no_connection_of_the_quick_ones(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """Not if all slots for waiting jobs are taken either: what is behind them runs."""
    waiting, gate = 0, asyncio.Event()

    async def wait(outside: Outside, payload: Wait) -> None:
        nonlocal waiting
        waiting += 1
        await gate.wait()

    async def done(context: JobContext, payload: Wait, nothing: None) -> None:
        """Nothing is left to do."""

    registry = Registry([job(outside=wait)(done), create_project])
    quick = replace(
        config, worker=config.worker.model_copy(update={"max_outside": 12, "max_jobs": 2})
    )
    worker = our_worker(quick, registry, handle_signals=False)
    running = asyncio.create_task(worker.main())
    waits = await client.enqueue_many([Wait() for _ in range(30)])

    async def all_taken() -> bool:
        return waiting == 12

    await eventually(all_taken)
    for n in range(5):
        job_id = await client.enqueue(CreateProject(name=f"quick {n}"))
        assert await job_id.result(timeout=10) == n + 1
    async with sessions() as session:
        ours = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"
        assert await session.scalar(text(ours)) == 0
    assert waiting == 12
    gate.set()
    for each in waits:
        await each.result(timeout=20)
    assert waiting == 30
    async with sessions() as session:
        assert set(await session.scalars(text("SELECT attempt FROM ledgerq.processed_job"))) == {1}
    await halt(worker, running)


async def test_an_answer_in_hand_is_recorded_though_the_job_is_stopped(
    any_sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timeout, a stop or a failed sibling that comes while it is written does not throw it away."""
    payments, add, recording, gate = (
        Payments(),
        steps.add_and_tell,
        asyncio.Event(),
        asyncio.Event(),
    )

    async def add_slowly(*args: Any) -> bool:
        recording.set()
        await gate.wait()
        return await add(*args)

    monkeypatch.setattr(steps, "add_and_tell", add_slowly)
    running = asyncio.create_task(run(any_sessions, payments, delivery(Charge())))
    await recording.wait()
    running.cancel()
    asyncio.get_running_loop().call_later(0.1, gate.set)
    await asyncio.wait([running])
    assert running.cancelled()
    assert isinstance(await run(any_sessions, payments, delivery(Charge(), attempt=2)), Completed)
    assert len(payments.calls) == 1


async def test_a_lock_in_the_way_of_a_record_does_not_call_again(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever passes is waited for."""
    payments, add, waits = Payments(), steps.add_and_tell, [LockTimeout(), Deadlock()]

    async def add_later(*args: Any) -> bool:
        if waits:
            raise waits.pop()
        return await add(*args)

    monkeypatch.setattr(steps, "add_and_tell", add_later)
    assert isinstance(await run(sessions, payments, delivery(Charge())), Completed)
    assert len(payments.calls) == 1
    assert waits == []


async def test_a_step_that_is_left_under_way_ends_with_the_function(any_sessions: Sessions) -> None:
    """It does not go on beside the next attempt, nor begin after the job's end."""
    slow, left = Payments(held=asyncio.Event()), []

    async def bad() -> int:
        await slow.asked.wait()
        raise ZeroDivisionError

    async def both(outside: Outside[Payments], charge: Charge) -> Receipt:
        left.append(outside)
        await asyncio.gather(
            outside.step("slow", slow.charge, 1, idempotency_key="0" * 32), outside.step("bad", bad)
        )
        raise AssertionError

    kind = job(outside=both)(charge.handle)
    assert isinstance(await run(any_sessions, slow, delivery(Charge()), kind), Retry)
    slow.held.set()  # type: ignore[union-attr]
    with pytest.raises(InvalidRequest, match="comes after the end"):
        await left[0].step("late", slow.charge, 1, idempotency_key="0" * 32)
    assert await count(any_sessions, JobStep) == 0


@pytest.mark.parametrize("caught", ["over", "doubt"])
async def test_a_function_that_catches_why_its_job_cannot_go_on_does_not_go_on(
    any_sessions: Sessions, caught: str
) -> None:
    """The job ends as if it had let it pass."""
    payments = Payments(held=asyncio.Event())

    async def careless(outside: Outside[Payments], charge: Charge) -> Receipt:
        with suppress(Exception):
            await outside.step(
                "charge", outside.resources.charge, 7, idempotency_key="0" * 32, at_most_once=True
            )
        return Receipt(id=UUID(int=0), amount=0)

    kind = job(outside=careless)(charge.handle)
    running = asyncio.create_task(run(any_sessions, payments, delivery(Charge()), kind))
    await payments.asked.wait()
    if caught == "over":
        async with transaction(any_sessions) as session:
            await interventions.cancel(session, "job-1", actor="ada", reason="x")
        payments.held.set()  # type: ignore[union-attr]
        assert await running == Duplicate(JobState.CANCELLED)
        async with any_sessions() as session:
            entries = await audit.of_job(session, "job-1")
        assert entries[-1].after == {"step": "charge", "recorded": False}
    else:
        running.cancel()
        await asyncio.wait([running])
        again = await run(any_sessions, payments, delivery(Charge(), attempt=2), kind)
        assert isinstance(again, Buried)
        assert again.reason == "in_doubt"
    assert await count(any_sessions, Project) == 0


class Aliased(BaseModel):
    """As many services answer."""

    model_config = ConfigDict(extra="forbid")
    receipt_id: UUID = Field(alias="receiptId")
    at: datetime

    @computed_field  # type: ignore[prop-decorator]
    @property
    def year(self) -> int:
        """Of the receipt."""
        return self.at.year


async def test_an_answer_has_its_type_in_each_attempt(any_sessions: Sessions) -> None:
    """Models with aliases and computed fields, times, tuples."""
    seen: list[Any] = []
    now = datetime(2026, 11, 26, tzinfo=UTC)

    async def ask() -> tuple[Aliased, dict[str, datetime]]:
        return Aliased(receiptId=UUID(int=5), at=now), {"at": now}

    async def outside_of_it(outside: Outside, charge: Charge) -> Receipt:
        seen.append(await outside.step("ask", ask))
        raise RetryLater(1)

    kind = job(outside=outside_of_it)(charge.handle)
    for attempt in (1, 2):
        assert isinstance(
            await run(any_sessions, None, delivery(Charge(), attempt=attempt), kind), Retry
        )
    assert seen[0] == seen[1] == await ask()


async def test_a_cursor_keeps_its_type_or_is_refused_before_a_crash_shows_it(
    any_sessions: Sessions,
) -> None:
    """What JSON would change needs its type named."""
    start, seen = (datetime(2026, 1, 1, tzinfo=UTC), 0), []

    async def pages(outside: Outside, charge: Charge) -> Receipt:
        kind = {"type": tuple[datetime, int]} if charge.amount else {}
        at, n = outside.cursor("rows", start, **kind)
        seen.append((at, n))
        await outside.advance("rows", (at + timedelta(days=1), n + 1), add_page, [])
        raise RetryLater(1)

    kind = job(outside=pages)(charge.handle)
    refused = await run(any_sessions, None, delivery(Charge(amount=0), "untyped"), kind)
    assert "name its type" in str(refused.error)
    for attempt in (1, 2):
        await run(any_sessions, None, delivery(Charge(), attempt=attempt), kind)
    assert seen[-1] == (start[0] + timedelta(days=1), 1)


async def test_who_cancels_a_job_waits_for_its_transaction_outside(sessions: Sessions) -> None:
    """As for a handler's: no rows come after the cancellation."""
    begun, gate = asyncio.Event(), asyncio.Event()

    async def add(context: JobContext[Any]) -> None:
        begun.set()
        await gate.wait()
        await projects.create(context.session, context.origin, NewProject(name="x"))

    async def reserve(outside: Outside, charge: Charge) -> Receipt:
        await outside.transaction("reserve", add)
        return Receipt(id=UUID(int=0), amount=1)

    running = asyncio.create_task(
        run(sessions, None, delivery(Charge()), job(outside=reserve)(charge.handle))
    )
    await begun.wait()

    async def cancel() -> Any:
        async with transaction(sessions) as session:
            return await interventions.cancel(session, "job-1", actor="ada", reason="x")

    cancelling = asyncio.create_task(cancel())
    await asyncio.wait([cancelling], timeout=0.3)
    assert not cancelling.done()
    gate.set()
    await cancelling
    await running
    assert await count(sessions, Project) >= 1


async def test_reading_outside_cannot_commit(any_sessions: Sessions) -> None:
    """What it writes would stand though the job failed."""

    async def write(session: LedgerqSession) -> None:
        session.add(Project(name="x"))
        await session.commit()

    async def read(outside: Outside, charge: Charge) -> Receipt:
        await outside.read(write)
        raise AssertionError

    outcome = await run(any_sessions, None, delivery(Charge()), job(outside=read)(charge.handle))
    assert isinstance(outcome, Buried)
    assert outcome.reason == "not_allowed_in_job"
    assert await count(any_sessions, Project) == 0


async def test_a_replay_with_other_fields_is_refused_while_a_step_is_in_doubt(
    any_sessions: Sessions,
) -> None:
    """The effect might happen twice, and nobody would know."""
    await run(any_sessions, Payments(fails=1), delivery(Charge()), once_only())
    for edit in ({"payload": {"amount": 8}}, {"new_job_id": "job-2"}):
        with pytest.raises(NotReplayable, match="step charge is in doubt"):
            async with transaction(any_sessions) as session:
                await replays.replay(session, ["job-1"], actor="ada", reason="x", **edit)


async def test_a_step_whose_answer_is_of_no_use_is_settled_by_a_person(
    any_sessions: Sessions,
) -> None:
    """With an answer that can be kept, which the job goes on with."""

    async def ask() -> Any:
        return object()

    async def outside_of_it(outside: Outside, charge: Charge) -> Receipt:
        return Receipt.model_validate(await outside.step("ask", ask))

    kind = job(outside=outside_of_it)(charge.handle)
    assert isinstance(await run(any_sessions, None, delivery(Charge()), kind), Buried)
    said = {"actor": "ada", "reason": "looked"}
    with pytest.raises(InvalidRequest, match="the job has: ask"):
        await resolve(any_sessions, "job-1", "no", happened=False, answer=None, **said)
    with pytest.raises(InvalidResult):
        await resolve(any_sessions, "job-1", "ask", happened=True, answer="\x00", **said)
    answer = {"id": str(UUID(int=3)), "amount": 3}
    await resolve(any_sessions, "job-1", "ask", happened=True, answer=answer, **said)
    async with transaction(any_sessions) as session:
        await replays.replay(session, ["job-1"], actor="ada", reason="x")
    assert isinstance(await run(any_sessions, None, delivery(Charge()), kind), Completed)


async def test_of_two_persons_one_decides(any_sessions: Sessions) -> None:
    """Else a call would be made again of which the other has said that it happened."""
    await run(any_sessions, Payments(fails=1), delivery(Charge()), once_only())
    answer = {"id": str(UUID(int=3)), "amount": 7}
    both = [
        resolve(
            any_sessions, "job-1", "charge", happened=happened, answer=answer, actor="a", reason="x"
        )
        for happened in (True, False)
    ]
    told = await asyncio.gather(*both, return_exceptions=True)
    assert [type(each) for each in told if each] == [InvalidRequest]
    there = int(told[0] is None)
    known = await rows(any_sessions, JobStep)
    assert [each.state for each in known] == [StepState.DONE] * there


async def test_steps_that_are_done_and_cursors_are_not_for_a_person_to_decide(
    any_sessions: Sessions,
) -> None:
    """`dead replay --from-step` does them again."""

    async def page(context: JobContext[Any]) -> None:
        pass

    async def give_up(outside: Outside[Payments], charge: Charge) -> Receipt:
        await outside.step("ask", outside.resources.charge, 7, idempotency_key="0" * 32)
        await outside.advance("pages", outside.cursor("pages", 0) + 1, page)
        raise Permanent("no")

    kind = job(outside=give_up)(charge.handle)
    assert isinstance(await run(any_sessions, Payments(), delivery(Charge()), kind), Buried)
    said: dict[str, Any] = {"happened": True, "answer": 1, "actor": "ada", "reason": "looked"}
    with pytest.raises(InvalidRequest, match="--from-step ask"):
        await resolve(any_sessions, "job-1", "ask", **said)
    with pytest.raises(InvalidRequest, match="'pages' is a cursor"):
        await resolve(any_sessions, "job-1", "pages", **said)


async def test_a_step_that_is_recorded_before_the_burial_is_not_in_doubt(
    any_sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another delivery had begun it, whose lease was lost; its answer comes while this one gives the job up."""
    payments, recorded, go_on = Payments(held=asyncio.Event()), asyncio.Event(), asyncio.Event()
    bury = ledgerq.execution.dead_letter.bury

    async def pay_once(outside: Outside[Payments], charge: Charge) -> Receipt:
        receipt = await outside.step(
            "charge", outside.resources.charge, 7, idempotency_key="0" * 32, at_most_once=True
        )
        recorded.set()
        await go_on.wait()
        return receipt

    async def bury_late(*given: Any) -> Any:
        assert payments.held
        payments.held.set()
        await recorded.wait()
        return await bury(*given)

    kind = job(outside=pay_once)(charge.handle)
    first = asyncio.create_task(run(any_sessions, payments, delivery(Charge()), kind))
    await payments.asked.wait()
    monkeypatch.setattr(ledgerq.execution.process, "bury", bury_late)
    second = await run(any_sessions, payments, delivery(Charge()), kind)
    assert isinstance(second, Retry)
    assert not second.counts_as_attempt
    go_on.set()
    assert isinstance(await first, Completed)
    assert len(payments.calls) == 1


async def test_a_job_that_says_itself_that_it_is_in_doubt_is_buried(any_sessions: Sessions) -> None:
    """There is no step of that name to ask."""

    async def doubts(outside: Outside[Payments], charge: Charge) -> Receipt:
        raise InDoubt("charge")

    kind = job(outside=doubts)(charge.handle)
    assert isinstance(await run(any_sessions, Payments(), delivery(Charge()), kind), Buried)


async def test_a_cursor_whose_place_is_unreadable_is_not_for_a_person_to_decide(
    any_sessions: Sessions,
) -> None:
    """Whatever was answered would spoil it; a replay with other code goes on from there."""

    async def page(context: JobContext[Any]) -> None:
        pass

    def looping(start: Any, error: type[Exception]) -> Kind[Charge, str]:
        async def loop(outside: Outside[Payments], charge: Charge) -> Receipt:
            await outside.advance("pages", [*outside.cursor("pages", start), 1], page)
            raise error

        return job(outside=loop)(charge.handle)

    first = looping([], RuntimeError)
    assert isinstance(await run(any_sessions, Payments(), delivery(Charge()), first), Retry)
    again = replace(delivery(Charge()), attempt=2)
    outcome = await run(any_sessions, Payments(), again, looping("", RuntimeError))
    assert isinstance(outcome, Buried)
    for happened in (True, False):
        with pytest.raises(InvalidRequest, match="'pages' is a cursor"):
            await resolve(
                any_sessions, "job-1", "pages", happened=happened, answer=3, actor="a", reason="x"
            )


@pytest.mark.parametrize("outer", ["transaction", "advance"])
@pytest.mark.parametrize("inner", ["step", "transaction", "advance"])
async def test_a_step_in_the_transaction_of_another_is_refused_before_anything_is_called(
    sessions: Sessions, outer: str, inner: str
) -> None:
    """It would hold a connection while it waits outside, or wait for the end of its own transaction, which never comes."""
    called = []

    async def note(*_: Any) -> None:
        called.append(inner)

    async def within(outside: Outside[Any], charge: Charge) -> Receipt:
        pages = outside.cursor("pages", 0)

        async def inside(_: JobContext[Any]) -> None:
            if inner == "advance":
                await outside.advance("pages", pages + 2, note)
            else:
                await getattr(outside, inner)("inner", note)

        if outer == "advance":
            await outside.advance("pages", pages + 1, inside)
        else:
            await outside.transaction("outer", inside)
        raise AssertionError

    kind = job(outside=within)(charge.handle)
    async with asyncio.timeout(5):
        outcome = await run(sessions, None, delivery(Charge()), kind)
    assert isinstance(outcome, Buried)
    assert "is in the transaction of step" in str(outcome.error)
    assert called == []


async def test_a_task_that_a_page_starts_may_begin_steps_after_the_commit(
    any_sessions: Sessions,
) -> None:
    """It was started in a transaction, which is over; so may the steps of another job that the task runs."""
    pages: list[asyncio.Task[Any]] = []
    committed = asyncio.Event()

    async def fetch() -> int:
        return 7

    async def ahead(outside: Outside[Any]) -> int:
        await committed.wait()
        another = await run(any_sessions, Payments(), delivery(Charge(), "another"))
        assert isinstance(another, Completed)
        return await outside.step("next", fetch)

    async def loop(outside: Outside[Any], charge: Charge) -> Receipt:
        outside.cursor("pages", 0)

        async def page(context: JobContext[Any]) -> None:
            assert outside.cursor("rows", 5) == 5  # which is no step
            pages.append(asyncio.create_task(ahead(outside)))

        await outside.advance("pages", 1, page)
        committed.set()
        return Receipt(id=UUID(int=3), amount=await pages[0])

    kind = job(outside=loop)(charge.handle)
    assert isinstance(await run(any_sessions, None, delivery(Charge()), kind), Completed)


async def test_a_page_after_the_end_of_the_function_is_refused(any_sessions: Sessions) -> None:
    """What the function left behind moves no cursor."""
    called, left = [], list[Outside[Any]]()

    async def page(context: JobContext[Any]) -> None:
        called.append(1)

    async def leave_behind(outside: Outside[Any], charge: Charge) -> Receipt:
        outside.cursor("pages", 0)
        left.append(outside)
        return Receipt(id=UUID(int=3), amount=7)

    kind = job(outside=leave_behind)(charge.handle)
    assert isinstance(await run(any_sessions, None, delivery(Charge()), kind), Completed)
    with pytest.raises(InvalidRequest, match="after the end"):
        await left[0].advance("pages", 1, page)
    assert called == []


async def test_a_step_that_has_happened_is_not_said_not_to_have_happened(
    any_sessions: Sessions,
) -> None:
    """Its rows are committed: only a replay from this step on, which says so, does it again."""

    async def add_row(context: JobContext[Any], kind: type[Any]) -> Any:
        return {"id": str(UUID(int=3)), "amount": 7}

    def adding(kind: type[Any], error: type[Exception] | None = None) -> Kind[Charge, str]:
        async def typed(context: JobContext[Any]) -> Any:
            return await add_row(context, kind)

        typed.__annotations__["return"] = kind

        async def add(outside: Outside[Any], charge: Charge) -> Receipt:
            await outside.transaction("row", typed)
            raise error or AssertionError

        return job(outside=add)(charge.handle)

    assert isinstance(
        await run(any_sessions, None, delivery(Charge()), adding(dict, RuntimeError)), Retry
    )
    again = replace(delivery(Charge()), attempt=2)
    assert isinstance(await run(any_sessions, None, again, adding(int)), Buried)
    said: dict[str, Any] = {"answer": None, "actor": "ada", "reason": "looked"}
    with pytest.raises(InvalidRequest, match=r"'row' was done, .* --from-step row"):
        await resolve(any_sessions, "job-1", "row", happened=False, **said)
    await resolve(any_sessions, "job-1", "row", happened=True, **{**said, "answer": 3})


async def test_an_answer_that_a_deploy_made_unreadable_is_settled_by_a_person(
    any_sessions: Sessions,
) -> None:
    """The step is done, so it must not be called again; a person gives the answer in its new form, also a second time."""

    class Detailed(Receipt):
        currency: str

    payments = Payments()

    def asking(kind: type[Receipt], error: type[Exception] | None = None) -> Kind[Charge, str]:
        async def ask(outside: Outside[Payments], charge: Charge) -> Receipt:
            answer = await outside.step("ask", typed)
            if error:
                raise error
            return answer  # type: ignore[no-any-return]

        async def typed() -> Any:
            return await payments.charge(7, idempotency_key="0" * 32)

        typed.__annotations__["return"] = kind
        return job(outside=ask)(charge.handle)

    before = asking(Receipt, RuntimeError)
    assert isinstance(await run(any_sessions, payments, delivery(Charge()), before), Retry)
    again = replace(delivery(Charge()), attempt=2)
    assert isinstance(await run(any_sessions, payments, again, asking(Detailed)), Buried)
    said = {"actor": "ada", "reason": "looked"}
    answer = {"id": str(UUID(int=3)), "amount": 3, "currency": "EUR"}
    for given in ({**answer, "currency": 7}, answer):  # a mistake can be put right
        await resolve(any_sessions, "job-1", "ask", happened=True, answer=given, **said)
    async with transaction(any_sessions) as session:
        await replays.replay(session, ["job-1"], actor="ada", reason="x")
    assert isinstance(await run(any_sessions, payments, again, asking(Detailed)), Completed)
    assert len(payments.calls) == 1


async def test_an_intent_whose_commit_was_not_answered_is_this_runs_own(
    any_sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No call was made yet, so nothing is in doubt."""
    payments, commit, lost = Payments(), ledgerq.database.transaction._commit_and_close, [1]

    async def commit_unanswered(session: LedgerqSession) -> None:
        await commit(session)
        if lost:
            lost.clear()
            raise Disconnected

    monkeypatch.setattr(ledgerq.database.transaction, "_commit_and_close", commit_unanswered)
    assert isinstance(await run(any_sessions, payments, delivery(Charge()), once_only()), Completed)
    assert len(payments.calls) == 1
    assert lost == []


@pytest.mark.parametrize("at_most_once", [True, False])
async def test_a_job_that_is_cancelled_while_a_step_is_recorded_calls_nothing_more(
    any_sessions: Sessions, monkeypatch: pytest.MonkeyPatch, at_most_once: bool
) -> None:
    """A commit is never cut in half, and the cancellation is not lost by that."""
    payments, commit = Payments(), ledgerq.database.transaction._commit_and_close
    calls_before = 0 if at_most_once else 1  # of the commit of the intent, or of the record

    async def pay_twice(outside: Outside[Payments], charge: Charge) -> Receipt:
        receipts = [
            await outside.step(
                name,
                outside.resources.charge,
                7,
                idempotency_key=outside.key(name),
                at_most_once=at_most_once,
            )
            for name in ("one", "two")
        ]
        return receipts[-1]

    async def commit_while_cancelled(session: LedgerqSession) -> None:
        if len(payments.calls) == calls_before:
            running.cancel()
            await asyncio.sleep(0)
        await commit(session)

    monkeypatch.setattr(ledgerq.database.transaction, "_commit_and_close", commit_while_cancelled)
    kind = job(outside=pay_twice)(charge.handle)
    running = asyncio.ensure_future(run(any_sessions, payments, delivery(Charge()), kind))
    await asyncio.wait([running])
    assert running.cancelled()
    assert len(payments.calls) == calls_before
    assert [each.name for each in await rows(any_sessions, JobStep)] == ["one"]


async def test_a_function_in_a_transaction_may_take_any_name(any_sessions: Sessions) -> None:
    """Also those of the method's own arguments."""

    async def add(context: JobContext[Any], name: str, value: int, function: str) -> str:
        return f"{name} {value} {function}"

    async def look(session: LedgerqSession, function: str) -> str:
        return function

    async def named(outside: Outside[Any], charge: Charge) -> Receipt:
        given: dict[str, Any] = {"name": "x", "value": 7, "function": "f"}
        assert await outside.transaction("row", add, **given) == "x 7 f"
        await outside.advance("pages", outside.cursor("pages", 0) + 1, add, **given)
        assert await outside.read(look, function="f") == "f"
        return Receipt(id=UUID(int=3), amount=7)

    kind = job(outside=named)(charge.handle)
    assert isinstance(await run(any_sessions, None, delivery(Charge()), kind), Completed)
