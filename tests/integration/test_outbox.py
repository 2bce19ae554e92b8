"""The outbox: a staged job exists if, and only if, its producer's transaction committed."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import DBAPIError

from db.models import Project
from jobs.kinds import CreateProject, CreateTask
from ledgerq.columns import utc_now
from ledgerq.database.engine import Sessions
from ledgerq.database.transaction import transaction
from ledgerq.errors import JobError, PayloadMismatch
from ledgerq.execution.outcome import Buried, Completed, Duplicate
from ledgerq.execution.retry import Policy
from ledgerq.staging import StagedJob, stage, stage_many
from ledgerq.store import inbox, outbox
from ledgerq.store.tables import OutboxMessage, ProcessedJob
from ledgerq.wire.request import Request, Unique
from tests.support import count, delivery, process_one, rows, staged_delivery
from worker.app import app

LAUNCH = CreateProject(name="Launch")
HOUR = timedelta(hours=1)


async def staged(sessions: Sessions, *requests: Request) -> list[StagedJob]:
    async with transaction(sessions) as session:
        return await stage_many(session, requests)


async def due(sessions: Sessions, limit: int = 100) -> list[str]:
    async with transaction(sessions) as session:
        return [message.job_id for message in await outbox.take_due(session, limit)]


async def run_staged(sessions: Sessions, job_id: str) -> object:
    """As the relay sends it and the worker runs it."""
    arrived = await staged_delivery(sessions, job_id)
    return await process_one(arrived, app.registry(), sessions, Policy())


async def test_a_staged_job_is_born_with_the_commit(any_sessions: Sessions) -> None:
    """A rollback takes the job along; a commit leaves job and rows together."""
    with pytest.raises(ZeroDivisionError):
        async with transaction(any_sessions) as session:
            await stage(session, LAUNCH, job_id="never")
            raise ZeroDivisionError
    async with transaction(any_sessions) as session:
        session.add(Project(name="beside"))
        assert (await stage(session, LAUNCH, job_id="once")).is_new
    assert [message.job_id for message in await rows(any_sessions, OutboxMessage)] == ["once"]
    assert await count(any_sessions, Project) == 1


async def test_the_jobs_own_transaction_takes_its_message_away(any_sessions: Sessions) -> None:
    """Done: the message is gone with the commit. Delivered once more: still gone, nothing done."""
    await staged(any_sessions, Request(LAUNCH, job_id="once"))
    assert isinstance(await run_staged(any_sessions, "once"), Completed)
    assert await count(any_sessions, OutboxMessage) == 0
    (again,) = await staged(any_sessions, Request(LAUNCH, job_id="once"))
    assert not again.is_new
    assert await count(any_sessions, OutboxMessage) == 0


async def test_a_message_that_outlived_its_job_is_settled_by_the_next_delivery(
    any_sessions: Sessions,
) -> None:
    """However it came to be there, it is not dispatched for ever."""
    async with transaction(any_sessions) as session:
        await inbox.insert_receipt(
            session, "once", LAUNCH.kind, Request(LAUNCH).envelope.payload_hash
        )
        message = outbox.Message("once", LAUNCH.kind, {"name": "Launch"}, "test")
        await outbox.add(session, [message])
    assert isinstance(await run_staged(any_sessions, "once"), Duplicate)
    assert await count(any_sessions, OutboxMessage) == 0


async def test_a_buried_job_takes_its_message_along(any_sessions: Sessions) -> None:
    """The dead letter and the end of the message are one commit."""
    await staged(any_sessions, Request(CreateTask(title="x", project_id=99), job_id="dead"))
    assert isinstance(await run_staged(any_sessions, "dead"), Buried)
    assert await count(any_sessions, OutboxMessage) == 0
    (row,) = await rows(any_sessions, ProcessedJob)
    assert (row.job_id, row.state) == ("dead", "dead")


async def test_a_message_falls_due_again_until_its_job_has_ended(any_sessions: Sessions) -> None:
    """Not at once, but later; at once if Redis has lost what it had."""
    await staged(any_sessions, Request(LAUNCH, job_id="a"), Request(LAUNCH, job_id="b"))
    assert await due(any_sessions) == ["a", "b"]
    assert await due(any_sessions) == []
    async with transaction(any_sessions) as session:
        assert await outbox.all_due(session) == 2
    assert await due(any_sessions) == ["a", "b"]
    async with transaction(any_sessions) as session:
        assert await outbox.due_now(session, ["a", "nobody"]) == {"a"}
    assert await due(any_sessions) == ["a"]


async def test_the_pause_between_dispatches_grows_up_to_half_an_hour(
    any_sessions: Sessions,
) -> None:
    """10 s, 20 s, 40 s … so that a backlog does not load Redis again and again."""
    await staged(any_sessions, Request(LAUNCH, job_id="a"))
    pauses = []
    for _ in range(9):
        assert await due(any_sessions) == ["a"]
        async with any_sessions() as session:
            now = await session.scalar(utc_now().select())
            message = await outbox.find(session, "a")
            assert message
            assert now
            now = now.replace(tzinfo=message.next_dispatch_at.tzinfo)
            pauses.append((message.next_dispatch_at - now).total_seconds())
        async with transaction(any_sessions) as session:
            await session.execute(update(OutboxMessage).values(next_dispatch_at=utc_now()))
    expected = [10, 20, 40, 80, 160, 320, 640, 1280, 1800]
    assert all(0.75 * e <= p <= 1.25 * e for p, e in zip(pauses, expected, strict=True)), pauses


async def test_a_delayed_job_falls_due_in_its_time(any_sessions: Sessions) -> None:
    """It stays in the outbox until then; a lost Redis does not hurry it."""
    await staged(any_sessions, Request(LAUNCH, job_id="later", delay=HOUR))
    assert await due(any_sessions) == []
    async with transaction(any_sessions) as session:
        assert await outbox.all_due(session) == 0
    assert await due(any_sessions) == []


async def test_jobs_of_one_key_fall_due_one_after_another(any_sessions: Sessions) -> None:
    """The next when the one before has ended, in the order staged; other keys do not wait."""
    await staged(
        any_sessions,
        *(Request(LAUNCH, job_id=f"x{9 - n}", ordering_key="x") for n in range(3)),
        Request(LAUNCH, job_id="y", ordering_key="y"),
        Request(LAUNCH, job_id="free"),
    )
    assert await due(any_sessions) == ["free", "x9", "y"]
    assert await due(any_sessions) == []
    await run_staged(any_sessions, "x9")
    assert await due(any_sessions) == ["x8"]
    await run_staged(any_sessions, "x8")
    assert await due(any_sessions) == ["x7"]


async def test_two_relays_never_take_the_same_message(sessions: Sessions) -> None:
    """The second skips what the first one holds, and does not wait."""
    await staged(sessions, *(Request(LAUNCH, job_id=f"j{n}") for n in range(10)))
    async with transaction(sessions) as first, transaction(sessions) as second:
        a = {message.job_id for message in await outbox.take_due(first, 6)}
        b = {message.job_id for message in await outbox.take_due(second, 6)}
    assert len(a) == 6
    assert len(b) == 4
    assert not a & b


async def test_producers_of_one_key_commit_in_the_order_of_their_numbers(
    sessions: Sessions,
) -> None:
    """The second producer of a key waits for the first one's commit before it draws a number."""
    async with transaction(sessions) as first:
        await stage(first, LAUNCH, job_id="first", ordering_key="k")
        second = asyncio.create_task(
            staged(sessions, Request(LAUNCH, job_id="second", ordering_key="k"))
        )
        done, _ = await asyncio.wait({second}, timeout=0.3)
        assert not done
    await second
    ids = [m.job_id for m in sorted(await rows(sessions, OutboxMessage), key=lambda m: m.seq)]
    assert ids == ["first", "second"]


async def test_batches_in_any_order_do_not_deadlock(sessions: Sessions) -> None:
    """Four producers stage the same 200 ids, each in another order: each id is new for one of them."""
    requests = [Request(LAUNCH, job_id=f"j{n:03}") for n in range(200)]
    orders = [
        requests,
        requests[::-1],
        requests[100:] + requests[:100],
        requests[::2] + requests[1::2],
    ]
    answers = await asyncio.gather(*(staged(sessions, *order) for order in orders))
    assert sum(job.is_new for jobs in answers for job in jobs) == 200
    assert await count(sessions, OutboxMessage) == 200


async def test_the_same_id_is_the_same_job(any_sessions: Sessions) -> None:
    """Twice in one call, in two transactions, and after it has ended; another payload is refused."""
    twice = await staged(any_sessions, *[Request(LAUNCH, job_id="once")] * 2)
    assert [job.is_new for job in twice] == [True, False]
    other = Request(CreateProject(name="Other"), job_id="once")
    with pytest.raises(PayloadMismatch, match="once"):
        await staged(any_sessions, other)
    await run_staged(any_sessions, "once")
    with pytest.raises(PayloadMismatch, match="once"):
        await staged(any_sessions, other)
    assert await count(any_sessions, OutboxMessage) == 0


async def test_an_id_is_asked_for_with_one_payload_also_beside_a_unique_key(
    any_sessions: Sessions,
) -> None:
    """Else the second payload would be gone, and nobody told."""
    await staged(any_sessions, Request(LAUNCH, job_id="once"))
    other = Request(CreateProject(name="Other"), job_id="once", unique=Unique("k", HOUR))
    with pytest.raises(PayloadMismatch, match="once"):
        await staged(any_sessions, other)


async def test_a_message_whose_id_another_job_took_does_not_stay(any_sessions: Sessions) -> None:
    """It is among the dead letters; in the outbox it would hold up all behind its ordering key, for ever."""
    await staged(any_sessions, Request(LAUNCH, job_id="x", ordering_key="k"))
    arrived = await staged_delivery(any_sessions, "x")
    other = delivery(CreateProject(name="Other"), "x")
    done = await process_one(other, app.registry(), any_sessions, Policy())
    assert isinstance(done, Completed)
    outcome = await process_one(arrived, app.registry(), any_sessions, Policy())
    assert isinstance(outcome, Buried)
    assert outcome.reason == "payload_mismatch"
    assert await count(any_sessions, OutboxMessage) == 0


async def test_a_message_stays_when_it_is_the_other_job(any_sessions: Sessions) -> None:
    """What is buried is a body from elsewhere with its id."""
    await staged(any_sessions, Request(LAUNCH, job_id="x"))
    async with transaction(any_sessions) as session:
        known = Request(LAUNCH).envelope.payload_hash
        await inbox.insert_receipt(session, "x", "create_project", known)
    other = delivery(CreateProject(name="Other"), "x")
    outcome = await process_one(other, app.registry(), any_sessions, Policy())
    assert isinstance(outcome, Buried)
    assert await count(any_sessions, OutboxMessage) == 1


async def test_a_unique_key_answers_with_the_job_that_has_it(any_sessions: Sessions) -> None:
    """Staged, and done; after the window the key is free. Another kind's key is another key."""
    report = Unique("report:7", timedelta(seconds=60))
    (first,) = await staged(any_sessions, Request(LAUNCH, unique=report))
    (again,) = await staged(any_sessions, Request(CreateProject(name="Other"), unique=report))
    assert (again.job_id, again.is_new) == (first.job_id, False)
    await run_staged(any_sessions, first.job_id)
    (done,) = await staged(any_sessions, Request(LAUNCH, unique=report))
    assert (done.job_id, done.is_new) == (first.job_id, False)
    task = CreateTask(title="x", project_id=1)
    (other,) = await staged(any_sessions, Request(task, unique=report))
    assert other.is_new
    brief = Unique("brief", timedelta(microseconds=1))
    (one,) = await staged(any_sessions, Request(LAUNCH, unique=brief))
    (two,) = await staged(any_sessions, Request(LAUNCH, unique=brief))
    assert two.is_new
    assert one.job_id != two.job_id


async def test_ten_producers_of_one_unique_key_stage_one_job(sessions: Sessions) -> None:
    """They meet at the key; nine are answered with the tenth's job."""
    request = Request(LAUNCH, unique=Unique("k", HOUR))
    answers = await asyncio.gather(*(staged(sessions, request) for _ in range(10)))
    assert len({job.job_id for (job,) in answers}) == 1
    assert sum(job.is_new for (job,) in answers) == 1
    assert await count(sessions, OutboxMessage) == 1


@pytest.mark.parametrize(
    ("request_of", "field"),
    [
        (lambda: Request(LAUNCH, job_id="a\nb"), "job_id"),
        (lambda: Request(LAUNCH, ordering_key=""), "ordering_key"),
        (lambda: Request(LAUNCH, actor="x" * 201), "actor"),
        (lambda: Request(LAUNCH, unique=Unique("", HOUR)), "unique.key"),
        (lambda: Request(LAUNCH, unique=Unique("k", timedelta(0))), "unique.window"),
    ],
)
async def test_what_no_worker_would_take_is_refused_at_once(
    any_sessions: Sessions, request_of: object, field: str
) -> None:
    """The producer hears of it, with the field; nothing is staged."""
    with pytest.raises(JobError, match=field):
        await staged(any_sessions, request_of())  # type: ignore[operator]
    assert await count(any_sessions, OutboxMessage) == 0


async def test_any_language_enqueues_by_a_function(sessions: Sessions) -> None:
    """`SELECT ledgerq.enqueue_job(…)` stages in its transaction, and answers with the job's id."""
    call = text("SELECT ledgerq.enqueue_job('create_project', '{\"name\": \"Launch\"}'::jsonb)")
    async with transaction(sessions) as session:
        job_id = await session.scalar(call)
    assert isinstance(await run_staged(sessions, str(job_id)), Completed)
    (project,) = await rows(sessions, Project)
    assert project.name == "Launch"
    assert await count(sessions, OutboxMessage) == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("'', '{}'", "kind: must have 1 to 100 characters"),
        ("'create_project', '[]'", "payload: must be a JSON object"),
        ("'create_project', NULL", "payload: must be a JSON object"),
        ("'create_project', '{}', E'a\\nb'", "job_id: must have 1 to 200 printable"),
        (
            "'create_project', jsonb_build_object('n', repeat('x', 900001))",
            "payload: must have at most 900000",
        ),
        ("'create_project', '{\"n\": 2}', 'there'", "job_id: there is staged with another payload"),
    ],
)
async def test_the_function_refuses_what_no_worker_would_take(
    sessions: Sessions, arguments: str, problem: str
) -> None:
    """With the argument's name and what is wrong with it."""
    async with transaction(sessions) as session:
        await session.execute(
            text("SELECT ledgerq.enqueue_job('create_project', '{\"n\": 1}', 'there')")
        )
    with pytest.raises(DBAPIError, match=problem):
        async with sessions() as session:
            await session.execute(text(f"SELECT ledgerq.enqueue_job({arguments})"))
