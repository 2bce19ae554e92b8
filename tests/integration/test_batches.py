"""Many jobs in one transaction leave what they would leave each in its own."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import arq
import pytest
from arq.connections import RedisSettings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from db.inputs import NewTask
from db.models import Task, TaskPriority, TaskStatus
from db.tasks import change_status
from jobs.kinds import ChangeTaskStatus, CreateProject, CreateTask
from ledgerq.client import JobClient, results
from ledgerq.config import Config
from ledgerq.database.engine import Sessions
from ledgerq.database.transaction import transaction
from ledgerq.errors import RetryLater
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.outcome import Buried, Completed, Duplicate, Outcome, Retry
from ledgerq.execution.process import process
from ledgerq.execution.registry import Registry
from ledgerq.execution.retry import Policy
from ledgerq.job import JobContext, Kind
from ledgerq.staging import stage_many
from ledgerq.store.tables import AuditLog, DeadLetter, OutboxMessage, ProcessedJob
from ledgerq.wire.envelope import encode
from ledgerq.wire.request import Request
from tests.support import count, delivery, done, drain, new_project, our_worker, process_one, rows
from worker.app import app

REGISTRY, POLICY = app.registry(), Policy(timeout=5)


async def run(sessions: Sessions, *deliveries: Delivery) -> list[Outcome]:
    return await process(deliveries, REGISTRY, sessions, POLICY)


def tasks(project_id: int, number: int) -> list[Delivery]:
    return [
        delivery(CreateTask(title=f"t{n}", project_id=project_id), f"job-{n:03}")
        for n in range(number)
    ]


async def left(sessions: Sessions) -> list[tuple[Any, ...]]:
    """What each job left, without what differs from run to run."""
    changing = {"id", "created_at", "updated_at", "at", "processed_at", "entity_id", "result"}
    by_id = {str(task.id): task for task in await rows(sessions, Task)}
    entries = sorted(await rows(sessions, AuditLog), key=lambda entry: str(entry.job_id))
    notes = {note.job_id: note for note in await rows(sessions, ProcessedJob)}
    return [
        (
            by_id[entry.entity_id].model_dump(exclude=changing),
            entry.model_dump(exclude=changing),
            notes[str(entry.job_id)].model_dump(exclude=changing),
            str(notes[str(entry.job_id)].result) == entry.entity_id,
        )
        for entry in entries
        if entry.job_id
    ]


TITLES = st.text(min_size=1, max_size=30).filter(
    lambda t: t.strip() and "\x00" not in t and not any("\ud800" <= c <= "\udfff" for c in t)
)


@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(
    wanted=st.lists(
        st.fixed_dictionaries(
            {"title": TITLES, "priority": st.sampled_from(TaskPriority)},
            optional={
                "description": st.none() | TITLES,
                "tags": st.lists(st.sampled_from("abcd"), unique=True),
                "due_at": st.none() | st.datetimes(timezones=st.timezones()),
            },
        ),
        min_size=2,
        max_size=8,
    )
)
async def test_a_batch_leaves_what_its_jobs_would_leave_alone(
    database: Any, wanted: Sequence[dict[str, Any]]
) -> None:
    """Tasks, audit entries and marks are the same, field by field, whatever the tasks are."""
    sessions = database.sessions
    project_id = await new_project(sessions)
    try:
        payloads = [CreateTask(project_id=project_id, **fields) for fields in wanted]
    except ValueError:
        return  # a date beyond the year 9999 in UTC
    alone = [delivery(p, f"{project_id}-a-{n}") for n, p in enumerate(payloads)]
    batch = [delivery(p, f"{project_id}-b-{n}") for n, p in enumerate(payloads)]
    for each in alone:
        assert isinstance(await process_one(each, REGISTRY, sessions, POLICY), Completed)
    assert all(isinstance(o, Completed) for o in await run(sessions, *batch))
    mine = [
        entry for entry in await left(sessions) if entry[1]["job_id"].startswith(f"{project_id}-")
    ]
    half = len(payloads)

    def anonymous(entries: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        for _, entry, note, _ in entries:
            entry.pop("job_id"), note.pop("job_id")
        return entries

    assert anonymous(mine[:half]) == anonymous(mine[half:])


async def test_a_bad_job_takes_no_neighbour_along(any_sessions: Sessions) -> None:
    """One of forty points at no project: thirty-nine are done, one is a dead letter."""
    project_id = await new_project(any_sessions)
    batch = tasks(project_id, 40)
    batch[17] = delivery(CreateTask(title="bad", project_id=999), "bad")
    outcomes = await run(any_sessions, *batch)
    assert [n for n, o in enumerate(outcomes) if isinstance(o, Buried)] == [17]
    assert sum(isinstance(o, Completed) for o in outcomes) == 39
    assert await count(any_sessions, Task) == 39
    assert [letter.job_id for letter in await rows(any_sessions, DeadLetter)] == ["bad"]


async def test_a_job_that_is_alone_is_handled_by_the_function_for_one(sessions: Sessions) -> None:
    """It fails within its timeout: it is not tried by the function for many first."""
    called = []

    async def handle(context: JobContext, task: CreateTask) -> None:
        called.append("one")
        raise RetryLater(0)

    async def handle_many(contexts: Sequence[JobContext], tasks: Sequence[CreateTask]) -> list[Any]:
        called.append("many")
        return [None for _ in tasks]

    registry = Registry([Kind(CreateTask, handle, handle_many=handle_many)])
    assert isinstance(await process_one(tasks(1, 1)[0], registry, sessions, POLICY), Retry)
    assert called == ["one"]


async def test_an_id_that_comes_twice_at_once_is_done_once(any_sessions: Sessions) -> None:
    """The second one is a duplicate, in the same list as in any later one."""
    project_id = await new_project(any_sessions)
    [job] = tasks(project_id, 1)
    again = Delivery(job.job_id, 1, job.body)
    outcomes = await run(any_sessions, job, again)
    assert [type(outcome) for outcome in outcomes] == [Completed, Duplicate]
    assert await count(any_sessions, Task) == 1


async def test_a_body_that_is_no_job_delays_no_neighbour(any_sessions: Sessions) -> None:
    """Its burial, a transaction that may have to wait, comes after theirs."""
    project_id = await new_project(any_sessions)
    await run(any_sessions, Delivery("bad", 1, b"{"), *tasks(project_id, 2))
    receipts = await rows(any_sessions, ProcessedJob)
    ended = sorted(receipts, key=lambda receipt: receipt.processed_at)
    assert ended[-1].job_id == "bad"


async def test_jobs_of_a_batch_that_had_ended_are_duplicates(any_sessions: Sessions) -> None:
    """They answer as the first time; the others are done."""
    project_id = await new_project(any_sessions)
    batch = tasks(project_id, 6)
    (first, *_) = await run(any_sessions, *batch[:3])
    again = await run(any_sessions, *batch)
    assert isinstance(first, Completed)
    assert isinstance(again[0], Duplicate)
    assert again[0].result == first.result
    assert [type(o) for o in again] == [Duplicate] * 3 + [Completed] * 3
    assert await count(any_sessions, Task) == 6
    assert [type(o) for o in await run(any_sessions, *batch)] == [Duplicate] * 6


async def test_batches_that_meet_do_each_job_once(sessions: Sessions) -> None:
    """Four batches of the same fifty jobs at once, in other orders: no deadlock, fifty tasks."""
    project_id = await new_project(sessions)
    batch = tasks(project_id, 50)
    orders = [batch, batch[::-1], batch[25:] + batch[:25], batch[::2] + batch[1::2]]
    outcomes = await asyncio.gather(*(run(sessions, *order) for order in orders))
    flat = [outcome for some in outcomes for outcome in some]
    assert sum(isinstance(o, Completed) for o in flat) == 50
    assert sum(isinstance(o, Duplicate) for o in flat) == 150
    assert await count(sessions, Task) == 50


async def test_a_lost_database_interrupts_the_whole_batch(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not split: smaller batches would not help. No attempt is spent."""
    project_id = await new_project(sessions)

    async def lost(*args: object) -> None:
        error = OperationalError("SELECT 1", {}, ConnectionError())
        error.connection_invalidated = True
        raise error

    monkeypatch.setattr("ledgerq.store.inbox.insert_receipts", lost)
    outcomes = await run(sessions, *tasks(project_id, 5))
    assert all(isinstance(o, Retry) and not o.counts_as_attempt for o in outcomes)


async def test_staged_jobs_of_a_batch_are_settled(any_sessions: Sessions) -> None:
    """Their messages leave the outbox in the batch's transaction."""
    project_id = await new_project(any_sessions)
    requests = [
        Request(CreateTask(title="x", project_id=project_id), job_id=f"s{n}") for n in range(5)
    ]
    async with transaction(any_sessions) as session:
        await stage_many(session, requests)
    bodies = [encode(r.envelope).replace(b'"k":{', b'"k":{"_staged":"1",') for r in requests]
    batch = [Delivery(f"s{n}", 1, body) for n, body in enumerate(bodies)]
    assert all(isinstance(o, Completed) for o in await run(any_sessions, *batch))
    assert await count(any_sessions, OutboxMessage) == 0


async def test_the_engine_runs_what_it_finds_together(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """Five hundred tasks, some other jobs among them and one that is bad: each has its own result."""
    project_id = await new_project(sessions)
    wanted: list[Any] = [CreateTask(title=f"t{n}", project_id=project_id) for n in range(500)]
    wanted[100:100] = [CreateProject(name=f"p{n}") for n in range(20)]
    bad = Request(CreateTask(title="bad", project_id=999), job_id="bad")
    jobs = await client.enqueue_many([*wanted, bad])
    await drain(our_worker(config, app.registry(), burst=True, handle_signals=False))
    answers = await results(jobs[:-1])
    by_id = {task.id: task.title for task in await rows(sessions, Task)}
    for asked, answer in zip(wanted, answers, strict=True):
        if isinstance(asked, NewTask):
            assert by_id[answer] == asked.title
    assert await done(sessions) == 520
    assert [letter.job_id for letter in await rows(sessions, DeadLetter)] == ["bad"]


async def test_jobs_that_failed_before_run_each_for_itself(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """Fifty fail at first, together; then no more of them run at once than there are slots."""
    at_once, most = 0, 0

    async def handle(context: JobContext, task: CreateTask) -> None:
        nonlocal at_once, most
        if context.origin.attempt == 1:
            raise RetryLater(0)
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.001)
        at_once -= 1

    registry = Registry([Kind(CreateTask, handle, shares_commit=True)])
    await client.enqueue_many([CreateTask(title=f"t{n}", project_id=1) for n in range(50)])
    options = {"burst": True, "handle_signals": False, "schedule": []}
    await drain(our_worker(config, registry, **options))
    assert await done(sessions) == 50
    assert most <= config.worker.max_jobs


async def test_each_job_can_have_a_commit_of_its_own(
    config: Config, client: JobClient, sessions: Sessions
) -> None:
    """LEDGERQ_BATCH=1: as many transactions as jobs."""
    project_id = await new_project(sessions)
    await client.enqueue_many([CreateTask(title=f"t{n}", project_id=project_id) for n in range(30)])
    worker = our_worker(config, app.registry(), burst=True, handle_signals=False, batch=1)
    await drain(worker)
    moments = {note.processed_at for note in await rows(sessions, ProcessedJob)}
    assert len(moments) == 30  # now() is the start of the transaction


@pytest.mark.parametrize("producer", ["our client", "stock arq", "SQL", "keys in another order"])
async def test_a_batch_is_a_batch_whoever_enqueues(
    config: Config, client: JobClient, sessions: Sessions, producer: str
) -> None:
    """Thirty jobs that wait share transactions: `processed_at` is the start of a job's transaction."""
    project_id = await new_project(sessions)
    payloads = [CreateTask(title=f"t{n}", project_id=project_id) for n in range(30)]
    await ENQUEUE[producer](config, client, sessions, payloads)
    options = {"burst": True, "handle_signals": False, "schedule": []}
    await drain(our_worker(config, app.registry(), **options))
    moments = {receipt.processed_at for receipt in await rows(sessions, ProcessedJob)}
    assert await done(sessions) == 30
    assert len(moments) <= 4  # the first has 8


async def by_our_client(
    _config: Config, client: JobClient, _sessions: Sessions, payloads: list[CreateTask]
) -> None:
    await client.enqueue_many(payloads)


async def by_stock_arq(
    config: Config, _client: JobClient, _sessions: Sessions, payloads: list[CreateTask]
) -> None:
    settings = RedisSettings.from_dsn(config.worker.redis_url.get_secret_value())
    redis = await arq.create_pool(settings, job_serializer=json_bytes)
    for payload in payloads:
        await redis.enqueue_job("create_task", **payload.model_dump(mode="json"))
    await redis.aclose(close_connection_pool=True)


async def by_sql(
    _config: Config, _client: JobClient, sessions: Sessions, payloads: list[CreateTask]
) -> None:
    enqueue = text("SELECT ledgerq.enqueue_job('create_task', CAST(:payload AS jsonb))")
    async with transaction(sessions) as session:
        for payload in payloads:
            await session.execute(enqueue, {"payload": payload.model_dump_json()})


async def in_another_order(
    _config: Config, client: JobClient, _sessions: Sessions, payloads: list[CreateTask]
) -> None:
    now = int(time.time() * 1000)
    for n, payload in enumerate(payloads):
        fields = payload.model_dump(mode="json")
        body = {"k": fields, "et": now, "a": [], "f": "create_task", "t": None}
        await client._redis.set(f"arq:job:odd-{n}", json_bytes(body))
        await client._redis.zadd("arq:queue", {f"odd-{n}": now})


ENQUEUE: dict[str, Callable[..., Awaitable[None]]] = {
    "our client": by_our_client,
    "stock arq": by_stock_arq,
    "SQL": by_sql,
    "keys in another order": in_another_order,
}


def json_bytes(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode()


async def test_batchable_jobs_share_a_transaction_one_after_another(any_sessions: Sessions) -> None:
    """Two moves of each of ten tasks in their order, one of them illegal: nineteen done, one buried."""
    project_id = await new_project(any_sessions)
    created = await run(any_sessions, *tasks(project_id, 10))
    ids = [outcome.result for outcome in created if isinstance(outcome, Completed)]
    moves = [
        delivery(ChangeTaskStatus(task_id=task_id, status=status), f"move-{status}-{task_id}")
        for status in (TaskStatus.IN_PROGRESS, TaskStatus.DONE)
        for task_id in ids
    ]
    illegal = ChangeTaskStatus(task_id=ids[3], status=TaskStatus.IN_PROGRESS)
    moves[13] = delivery(illegal, "illegal")  # of a task that is in progress already
    await run(any_sessions, *moves)
    statuses = {task.id: task.status for task in await rows(any_sessions, Task)}
    assert [n for n, i in enumerate(ids) if statuses[i] is not TaskStatus.DONE] == [3]
    entries = [e for e in await rows(any_sessions, AuditLog) if e.kind == "change_task_status"]
    per_job = sorted(str(entry.job_id) for entry in entries)
    assert len(per_job) == len(set(per_job))


async def test_two_changes_of_one_row_in_a_batch_are_both_made(any_sessions: Sessions) -> None:
    """The second is judged by what the first one left, though neither is written yet."""
    project = await new_project(any_sessions)
    await run(any_sessions, *tasks(project, 1))
    (task,) = await rows(any_sessions, Task)
    first = ChangeTaskStatus(task_id=task.id, status=TaskStatus.IN_PROGRESS)
    second = ChangeTaskStatus(task_id=task.id, status=TaskStatus.DONE)

    outcomes = await run(any_sessions, delivery(first, "first"), delivery(second, "second"))

    assert outcomes == [Completed(task.id), Completed(task.id)]
    (changed,) = await rows(any_sessions, Task)
    assert (changed.status, changed.version) == (TaskStatus.DONE, task.version + 2)
    assert await count(any_sessions, AuditLog) == 4  # the project, the task, and its two moves


async def test_sql_of_a_handler_sees_what_it_changed_before_in_a_batch(
    any_sessions: Sessions,
) -> None:
    """Changes that wait are written before anybody's own SQL runs."""
    project = await new_project(any_sessions)
    await run(any_sessions, *tasks(project, 2))
    seen = []

    async def handle(context: JobContext, change: ChangeTaskStatus) -> None:
        await change_status(context.session, context.origin, change.task_id, change.status)
        row = text("SELECT status FROM task WHERE id = :id")
        seen.append(await context.session.scalar(row, {"id": change.task_id}))

    registry = Registry([Kind(ChangeTaskStatus, handle, shares_commit=True)])
    moves = [
        delivery(
            ChangeTaskStatus(task_id=task.id, status=TaskStatus.IN_PROGRESS), f"move-{task.id}"
        )
        for task in await rows(any_sessions, Task)
    ]
    await process(moves, registry, any_sessions, POLICY)

    assert seen == ["in_progress", "in_progress"]
