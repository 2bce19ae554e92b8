"""Replay and discard: a dead job lives once more, or stays dead for good, and the log says who said so."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from arq.connections import ArqRedis

from db.models import Task
from jobs.kinds import CreateProject, CreateTask
from ledgerq.admin import dead_letters as worker_letters
from ledgerq.admin.dead_letters import BulkResult, ReplayResult, replay_all
from ledgerq.broker import keys
from ledgerq.broker.connection import connect
from ledgerq.config import WorkerConfig
from ledgerq.database.engine import Sessions
from ledgerq.database.transaction import transaction
from ledgerq.errors import InvalidRequest, NotBuried, NotReplayable, Undecodable
from ledgerq.execution import interventions, replays
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.outcome import Buried, Completed, Duplicate, Outcome
from ledgerq.execution.replays import Replayed
from ledgerq.execution.retry import Policy
from ledgerq.store import dead_letters, inbox, outbox
from ledgerq.store.dead_letters import ALL, DeadLetterFilter
from ledgerq.store.tables import Action, AuditLog, DeadLetter, JobState, OutboxMessage, ProcessedJob
from ledgerq.wire.envelope import Envelope, encode
from tests.support import (
    count,
    delivery,
    eventually,
    letter,
    new_project,
    process_one,
    rows,
    staged_delivery,
    waiting_for_a_lock,
)
from worker.app import app

LAUNCH = CreateProject(name="Launch")
QUEUE = "arq:queue"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[ArqRedis]:
    client = connect(WorkerConfig(redis_url=redis_url))
    yield client
    await client.aclose(close_connection_pool=True)


async def run(sessions: Sessions, arrived: Delivery) -> Outcome:
    return await process_one(arrived, app.registry(), sessions, Policy())


async def dead(sessions: Sessions, job_id: str = "dead") -> None:
    """A job that was buried because its project is missing."""
    outcome = await run(sessions, delivery(CreateTask(title="x", project_id=99), job_id))
    assert isinstance(outcome, Buried)


async def replay(sessions: Sessions, *job_ids: str, **edit: Any) -> list[Replayed]:
    async with transaction(sessions) as session:
        return await replays.replay(session, job_ids, actor="me", reason="mended", **edit)


async def discard(sessions: Sessions, *job_ids: str) -> list[str]:
    async with transaction(sessions) as session:
        return await interventions.discard(session, job_ids, actor="me", reason="no use")


async def run_staged(sessions: Sessions, job_id: str) -> Outcome:
    """As the relay sends it and the worker runs it."""
    return await run(sessions, await staged_delivery(sessions, job_id))


async def unread(sessions: Sessions, job_id: str = "dead", **fields: Any) -> None:
    """A letter that keeps raw bytes only."""
    plain: dict[str, Any] = {
        "kind": None, "payload": None, "raw": b"{", "actor": None, "trace_id": None,
        "reason": "undecodable", "error": "?", "problems": [], "traceback": None, "attempt": 1,
        "attempts": [], "worker": "w", "fingerprint": "f",
    }  # fmt: skip
    async with transaction(sessions) as session:
        await inbox.insert_receipt(session, job_id, "unknown", b"", state=JobState.DEAD)
        await dead_letters.bury(session, DeadLetter(job_id=job_id, **{**plain, **fields}))


async def nothing_changed(sessions: Sessions) -> bool:
    """The letter is there, the job dead, nothing staged, nothing said."""
    (row,) = await rows(sessions, ProcessedJob)
    counts = [await count(sessions, table) for table in (DeadLetter, OutboxMessage, AuditLog)]
    return counts == [1, 0, 0] and row.state is JobState.DEAD


async def test_an_edited_job_runs_and_the_log_says_who_edited_it(any_sessions: Sessions) -> None:
    """One task, made under the job's own id and actor; the log keeps what the letter held."""
    await dead(any_sessions)
    buried = await letter(any_sessions, "dead")
    project_id = await new_project(any_sessions)
    mended = {"title": "x", "project_id": project_id}
    assert await replay(any_sessions, "dead", payload=mended) == [
        Replayed("dead", "dead", "create_task")
    ]
    assert await count(any_sessions, DeadLetter) == 0
    assert isinstance(await run_staged(any_sessions, "dead"), Completed)
    assert isinstance(await run(any_sessions, delivery(LAUNCH, "other")), Completed)
    (task,) = await rows(any_sessions, Task)
    assert task.project_id == project_id
    replayed, created = [e for e in await rows(any_sessions, AuditLog) if e.job_id == "dead"]
    assert (replayed.entity_type, replayed.entity_id) == ("dead_letter", str(buried.id))
    assert (replayed.action, replayed.actor) == (Action.REPLAY, "me")
    assert replayed.before == {
        "reason": "refused",
        "error": buried.error,
        "attempt": 1,
        "payload": {"title": "x", "project_id": 99},
    }
    assert replayed.after == {"reason": "mended", "payload_edited": True}
    assert (created.action, created.actor, created.entity_id) == ("create", "tester", str(task.id))
    assert await count(any_sessions, OutboxMessage) == 0


async def test_a_job_that_fails_once_more_is_buried_once_more(any_sessions: Sessions) -> None:
    """A new letter; a replay spends nothing but itself."""
    await dead(any_sessions)
    await replay(any_sessions, "dead")
    assert await count(any_sessions, DeadLetter) == 0
    assert isinstance(await run_staged(any_sessions, "dead"), Buried)
    assert (await letter(any_sessions, "dead")).attempt == 1
    assert await count(any_sessions, OutboxMessage) == 0


async def test_a_rolled_back_replay_leaves_the_letter(any_sessions: Sessions) -> None:
    """Letter, inbox, outbox and log change together or not at all."""
    await dead(any_sessions)
    with pytest.raises(ZeroDivisionError):
        async with transaction(any_sessions) as session:
            await replays.replay(session, ["dead"], actor="me", reason="")
            raise ZeroDivisionError
    assert await nothing_changed(any_sessions)


async def test_a_job_without_a_letter_is_left_out_of_the_answer(any_sessions: Sessions) -> None:
    """The caller sees which were there."""
    await dead(any_sessions)
    answer = await replay(any_sessions, "nobody", "dead", "dead")
    assert [each.job_id for each in answer] == ["dead"]
    assert await replay(any_sessions, "dead") == []
    assert await discard(any_sessions, "dead") == []


async def test_two_replays_of_one_letter_stage_it_once(any_sessions: Sessions) -> None:
    """The second waits for the first, and finds no letter; so does one that would discard it."""
    await dead(any_sessions)
    answers = await asyncio.gather(*(replay(any_sessions, "dead") for _ in range(5)))
    assert sorted(map(len, answers)) == [0, 0, 0, 0, 1]
    assert await count(any_sessions, OutboxMessage) == await count(any_sessions, AuditLog) == 1


async def test_what_is_staged_already_is_no_obstacle(any_sessions: Sessions) -> None:
    """An edited payload takes the place of the one that is staged."""
    edits: list[dict[str, Any]] = [{}, {"payload": {"title": "y", "project_id": 1}}]
    for edit in edits:
        job_id = f"dead-{len(edit)}"
        await dead(any_sessions, job_id)
        old = outbox.Message(job_id, "create_task", {"title": "x", "project_id": 99}, "tester")
        async with transaction(any_sessions) as session:
            await outbox.add(session, [old])
        assert await replay(any_sessions, job_id, **edit)
    titles = {m.job_id: m.payload["title"] for m in await rows(any_sessions, OutboxMessage)}
    assert titles == {"dead-0": "x", "dead-1": "y"}


@pytest.mark.parametrize("raw", [None, b"", b"{", b'{"f": "create_project", "a": [1]}'])
async def test_a_letter_without_a_payload_says_what_to_give(
    any_sessions: Sessions, raw: bytes | None
) -> None:
    """An expired body, or bytes that are no job: with kind and payload it runs."""
    await unread(any_sessions, raw=raw)
    for edit in ({}, {"kind": "create_project"}, {"payload": {"name": "Launch"}}):
        with pytest.raises(NotReplayable, match=r"job dead.*give --kind and --payload"):
            await replay(any_sessions, "dead", **edit)
    assert await nothing_changed(any_sessions)
    await replay(any_sessions, "dead", kind="create_project", payload={"name": "Launch"})
    assert isinstance(await run_staged(any_sessions, "dead"), Completed)


async def test_raw_bytes_that_are_a_job_are_used(any_sessions: Sessions) -> None:
    """Kept as bytes for another reason, they still say kind, payload, actor and trace."""
    raw = encode(Envelope("create_project", {"name": "Launch"}, "user:7", "trace-1"))
    await unread(any_sessions, raw=raw)
    await replay(any_sessions, "dead")
    (message,) = await rows(any_sessions, OutboxMessage)
    assert (message.kind, message.payload) == ("create_project", {"name": "Launch"})
    assert (message.actor, message.trace_id) == ("user:7", "trace-1")


@pytest.mark.parametrize(
    ("payload", "said"),
    [({"name": "a\x00b"}, "NUL"), ({"name": "x" * 1_000_001}, "at most 1000000"), ({"_actor": 7}, "_actor")],
)  # fmt: skip
async def test_a_payload_that_no_worker_takes_is_refused(
    any_sessions: Sessions, payload: dict[str, Any], said: str
) -> None:
    """In the replay, not after it."""
    await unread(any_sessions)
    with pytest.raises(NotReplayable, match=said):
        await replay(any_sessions, "dead", kind="create_project", payload=payload)
    assert await nothing_changed(any_sessions)


async def test_another_payload_under_a_done_jobs_id_can_run_under_a_new_one(
    any_sessions: Sessions,
) -> None:
    """Its letter has an id of its own; a replay may give it yet another one."""
    await run(any_sessions, delivery(LAUNCH, "once"))
    assert isinstance(
        await run(any_sessions, delivery(CreateProject(name="Other"), "once")), Buried
    )
    (refused,) = await rows(any_sessions, DeadLetter)
    for taken in ("once", "a\nb", ""):
        with pytest.raises((InvalidRequest, Undecodable), match="job_id"):
            await replay(any_sessions, refused.job_id, new_job_id=taken)
    assert await replay(any_sessions, refused.job_id, new_job_id="twice") == [
        Replayed(refused.job_id, "twice", "create_project")
    ]
    assert isinstance(await run_staged(any_sessions, "twice"), Completed)
    (entry,) = [e for e in await rows(any_sessions, AuditLog) if e.action == Action.REPLAY]
    assert (entry.job_id, entry.after["job_id"]) == (refused.job_id, "twice")
    again = await run(any_sessions, delivery(LAUNCH, "once"))
    assert isinstance(again, Duplicate)
    assert again.state is JobState.DONE


async def test_an_id_that_could_not_be_stored_is_replayed_under_the_letters(
    any_sessions: Sessions,
) -> None:
    """The letter's readable part and hash are an id like any other."""
    await run(any_sessions, Delivery("a\nb", 1, encode(Envelope("create_project", {"name": "x"}))))
    (buried,) = await rows(any_sessions, DeadLetter)
    assert "~" in buried.job_id
    await replay(any_sessions, buried.job_id)
    assert isinstance(await run_staged(any_sessions, buried.job_id), Completed)


async def test_an_edit_is_for_one_job(any_sessions: Sessions) -> None:
    """Two jobs with one edited payload or one id are a mistake."""
    edits: list[dict[str, Any]] = [{"payload": {}}, {"new_job_id": "x"}]
    for edit in edits:
        with pytest.raises(InvalidRequest, match="is for one job"):
            await replay(any_sessions, "a", "b", **edit)


@pytest.mark.parametrize("actor", ["", "x" * 201, "a\nb"])
async def test_an_actor_that_the_log_cannot_hold_is_refused(
    any_sessions: Sessions, actor: str
) -> None:
    """Whoever acts is known afterwards."""
    async with transaction(any_sessions) as session:
        for act in (replays.replay, interventions.discard):
            with pytest.raises(InvalidRequest, match="actor"):
                await act(session, ["dead"], actor=actor, reason="")


async def test_a_discarded_job_stays_dead(any_sessions: Sessions) -> None:
    """The letter goes, with an entry in the log; a redelivery finds the job dead and does nothing."""
    await dead(any_sessions)
    buried = await letter(any_sessions, "dead")
    assert await discard(any_sessions, "dead", "nobody") == ["dead"]
    assert await count(any_sessions, DeadLetter) == 0
    again = await run(any_sessions, delivery(CreateTask(title="x", project_id=99), "dead"))
    assert again == Duplicate(JobState.DEAD)
    (entry,) = await rows(any_sessions, AuditLog)
    assert (entry.action, entry.entity_id, entry.job_id) == (Action.DISCARD, str(buried.id), "dead")
    assert entry.after == {"reason": "no use"}


async def test_pages_hold_every_letter_once(any_sessions: Sessions) -> None:
    """The newest first, by kind, reason or fingerprint; a letter written meanwhile is left out."""
    for n in range(7):
        await dead(any_sessions, f"d{n}")
    await unread(any_sessions, "odd")
    seen = []
    async for page in dead_letters.pages(any_sessions, DeadLetterFilter(reason="refused"), size=3):
        seen.append([each.job_id for each in page])
        await replay(any_sessions, page[0].job_id)
        await run_staged(any_sessions, page[0].job_id)  # and is dead again, with a new letter
    assert seen == [["d6", "d5", "d4"], ["d3", "d2", "d1"], ["d0"]]
    one = [p async for p in dead_letters.pages(any_sessions, DeadLetterFilter(fingerprint="f"))]
    assert [[each.job_id for each in page] for page in one] == [["odd"]]
    assert [p async for p in dead_letters.pages(any_sessions, DeadLetterFilter(kind="nope"))] == []


async def swept(redis: ArqRedis, sessions: Sessions) -> BulkResult:
    return await replay_all(redis, sessions, QUEUE, ALL, actor="me", reason="")


async def named(
    redis: ArqRedis, sessions: Sessions, job_ids: list[str], **edit: Any
) -> ReplayResult:
    return await worker_letters.replay(
        redis, sessions, QUEUE, job_ids, actor="me", reason="", **edit
    )


async def test_two_who_replay_everything_share_the_work(
    any_sessions: Sessions, redis: ArqRedis
) -> None:
    """Each letter is replayed by one of them; what can't be replayed stays."""
    for n in range(40):
        await dead(any_sessions, f"d{n}")
    await unread(any_sessions, "odd")
    answers = await asyncio.gather(swept(redis, any_sessions), swept(redis, any_sessions))
    assert sum(each.taken for each in answers) == 40
    assert [str(each) for each in answers[0].obstacles] == [
        "payload: of job odd, no kind and payload can be read; give --kind and --payload"
    ]
    assert await count(any_sessions, OutboxMessage) == await count(any_sessions, AuditLog) == 40


async def test_what_redis_still_has_of_a_dead_job_does_not_come_first(
    any_sessions: Sessions, redis: ArqRedis
) -> None:
    """A worker that died before it could say so left the old payload; what a worker has is its own."""
    for job_id in ("dead", "held"):
        await dead(any_sessions, job_id)
        await redis.set(keys.job_key(job_id), b"old")
        await redis.zadd(QUEUE, {job_id: 1})
        await redis.hset(keys.failures_key(QUEUE, job_id), "crashes", "3")  # type: ignore[misc]
        await redis.hset(keys.running_key(QUEUE), job_id, "token|1|1|gone")  # type: ignore[misc]
    await redis.set(f"{keys.in_progress_key_prefix}held", "token")
    await named(redis, any_sessions, ["dead", "held"])
    left = {key.decode() for key in await redis.keys("*:dead")}
    assert left == set()
    assert await redis.zrange(QUEUE, 0, -1) == [b"held"]
    assert await redis.get(keys.job_key("held")) == b"old"
    assert await count(any_sessions, OutboxMessage) == 2


@pytest.mark.parametrize("edit", [{"payload": {"name": "new"}}, {"kind": "create_project"}])
async def test_a_replay_with_other_fields_waits_until_redis_has_no_claim_of_the_job(
    any_sessions: Sessions, redis: ArqRedis, edit: dict[str, Any]
) -> None:
    """Its worker died between the burial and the ack: else the old fields would run, and the new ones never."""
    await dead(any_sessions, "held")
    await redis.set(keys.job_key("held"), b"old")
    await redis.zadd(QUEUE, {"held": 1})
    await redis.set(f"{keys.in_progress_key_prefix}held", "token")
    nowhere = connect(WorkerConfig(redis_url="redis://127.0.0.1:1"))
    for server, said in ((redis, "did not end its claim"), (nowhere, "Redis does not answer")):
        with pytest.raises(NotReplayable, match=f"{said}.*--new-id"):
            await named(server, any_sessions, ["held"], **edit)
    assert await nothing_changed(any_sessions)
    await redis.delete(f"{keys.in_progress_key_prefix}held")
    await named(redis, any_sessions, ["held"], **edit)
    assert await redis.zrange(QUEUE, 0, -1) == []


async def test_a_replay_that_loses_leaves_the_winners_job_on_the_queue(
    sessions: Sessions, redis: ArqRedis
) -> None:
    """The loser takes the job off the queue only if it has the letter."""
    await dead(sessions)
    async with transaction(sessions) as session:  # the winner
        await replays.replay(session, ["dead"], actor="me", reason="")
        loser = asyncio.create_task(named(redis, sessions, ["dead"]))
        await eventually(partial(waiting_for_a_lock, sessions, "SELECT ledgerq.dead_letter"))
        await redis.zadd(QUEUE, {"dead": 1})
    with pytest.raises(NotBuried):
        await loser
    assert await redis.zrange(QUEUE, 0, -1) == [b"dead"]


async def test_a_replay_does_without_redis(any_sessions: Sessions) -> None:
    """The outbox is what counts."""
    await dead(any_sessions)
    nowhere = connect(WorkerConfig(redis_url="redis://127.0.0.1:1"))
    assert not (await named(nowhere, any_sessions, ["dead"])).redis_reached
    assert await count(any_sessions, OutboxMessage) == 1


async def test_all_that_are_named_or_none(any_sessions: Sessions, redis: ArqRedis) -> None:
    """An id without a letter is named; the others keep theirs, and Redis what it has of a living job."""
    await dead(any_sessions)
    await redis.set(keys.job_key("alive"), b"body")
    with pytest.raises(NotBuried, match="alive"):
        await named(redis, any_sessions, ["dead", "alive"])
    with pytest.raises(NotBuried, match="alive"):
        await worker_letters.discard(any_sessions, ["dead", "alive"], actor="me", reason="")
    assert await nothing_changed(any_sessions)
    assert await redis.get(keys.job_key("alive")) == b"body"


async def test_letters_that_failed_alike_are_one_group(any_sessions: Sessions) -> None:
    """Counted, the largest group first, with its newest letter."""
    for n in range(3):
        await dead(any_sessions, f"d{n}")
    await unread(any_sessions, "odd")
    async with any_sessions() as session:
        found = await dead_letters.groups(session)
        assert [(n, newest.job_id) for n, newest in found] == [(3, "d2"), (1, "odd")]
        (only,) = await dead_letters.groups(session, DeadLetterFilter(kind="create_task"), limit=1)
        assert only[0] == 3


async def test_what_stands_in_the_way_is_known_before(any_sessions: Sessions) -> None:
    """So that one letter does not hold up a page of others."""
    await dead(any_sessions)
    await unread(any_sessions, "odd")
    obstacles = [replays.obstacle(each) for each in await rows(any_sessions, DeadLetter)]
    assert [bool(each) for each in obstacles] == [False, True]


WRONG = [{"a": [1]}, {"t": "soon"}, {"et": -1}, {"q": 7}, {"u": "a\nb"}, {"k": {"_staged": 7}}]


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_body_with_one_wrong_field_keeps_its_author(
    any_sessions: Sessions, wrong: dict[str, Any]
) -> None:
    """Actor, trace and kind are in the letter, and the replayed job has them."""
    known = {"name": "x", "_actor": "user:7", "_trace_id": "t7"}
    body = {"f": "create_project", **wrong, "k": {**known, **wrong.get("k", {})}}
    await run(any_sessions, Delivery("odd", 1, json.dumps(body).encode()))
    buried = await letter(any_sessions, "odd")
    assert (buried.kind, buried.actor, buried.trace_id) == ("create_project", "user:7", "t7")
    assert buried.payload is None
    await replay(any_sessions, "odd", payload={"name": "x"})
    (message,) = await rows(any_sessions, OutboxMessage)
    assert (message.kind, message.actor, message.trace_id) == ("create_project", "user:7", "t7")


async def test_an_older_letter_of_raw_bytes_is_replayed_under_its_author(
    any_sessions: Sessions,
) -> None:
    """What is read of its bytes counts where its columns are empty."""
    raw = b'{"f":"create_project","a":[1],"k":{"_actor":"user:7","_trace_id":"t7"}}'
    await unread(any_sessions, "odd", raw=raw)
    await replay(any_sessions, "odd", payload={"name": "x"}, kind="create_project")
    (message,) = await rows(any_sessions, OutboxMessage)
    assert (message.kind, message.actor, message.trace_id) == ("create_project", "user:7", "t7")
