"""What outside jobs cost and how often they are tried: attempts for each step, trips to the database, threads."""

import asyncio
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from sqlalchemy.engine import URL
from structlog.testing import capture_logs

from ledgerq import DefinitionError, JobContext, Outside, Payload, Permanent, job
from ledgerq.database.engine import Database, Sessions, open_database
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.transaction import transaction
from ledgerq.errors import InvalidRequest
from ledgerq.execution import replays
from ledgerq.execution.outcome import Buried, Completed, Outcome, Retry
from ledgerq.execution.registry import Registry
from ledgerq.execution.retry import Policy
from ledgerq.runtime.calls import MAX_LEFT, MAX_THREADS, _name, call_within
from ledgerq.store import audit, steps
from ledgerq.store.tables import JobStep
from tests.integration.test_reads import statements
from tests.support import delivery, eventually, process_one, rows

NAMES = ("find", "charge", "mail")


class Send(Payload[int], kind="send"):
    """Takes three steps."""

    number: int = 1


@dataclass
class Party:
    """Is called once for each step; fails as often as it is told."""

    fails: dict[str, int] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    async def call(self, name: str) -> int:
        self.calls.append(name)
        if self.calls.count(name) <= self.fails.get(name, 0):
            raise ConnectionError(f"{name}: the party is away")
        return len(self.calls)


async def three_steps(outside: Outside[Party], send: Send) -> int:
    for name in NAMES:
        await outside.step(name, outside.resources.call, name)
    return 3


async def answer(context: JobContext[Party], send: Send, steps: int) -> int:
    return steps


send = job(outside=three_steps)(answer)


async def attempt(
    sessions: Sessions, party: Party, number: int, kind: Any = send, **policy: Any
) -> Outcome:
    registry, limits = Registry([kind], party), Policy(timeout=5, **policy)
    return await process_one(delivery(Send(), attempt=number), registry, sessions, limits)


async def test_a_recorded_step_gives_the_job_its_attempts_back(any_sessions: Sessions) -> None:
    """Attempts count for each step: three steps may fail twice each, though three failures of one bury the job."""
    party = Party(fails=dict.fromkeys(NAMES, 2))
    outcomes = [await attempt(any_sessions, party, n, max_attempts=3) for n in range(1, 8)]
    assert [type(each) for each in outcomes] == [Retry] * 6 + [Completed]
    assert Counter(party.calls) == {"find": 3, "charge": 3, "mail": 3}


async def test_attempts_run_out_where_no_step_is_recorded(any_sessions: Sessions) -> None:
    """The second step fails for ever: the job is buried after three attempts at it."""
    party = Party(fails={"find": 2, "charge": 99})
    outcomes = [await attempt(any_sessions, party, n, max_attempts=3) for n in range(1, 6)]
    assert [type(each) for each in outcomes] == [Retry] * 4 + [Buried]
    assert Counter(party.calls) == {"find": 3, "charge": 3}


async def test_a_handler_has_attempts_of_its_own_after_the_last_step(
    any_sessions: Sessions,
) -> None:
    """Its failures count from the last record on, in later deliveries too."""
    party = Party(fails={"mail": 2})

    async def fail(context: JobContext[Party], send: Send, steps: int) -> int:
        raise RuntimeError("out of paper")

    kind = job(outside=three_steps)(fail)
    outcomes = [await attempt(any_sessions, party, n, kind, max_attempts=3) for n in range(1, 6)]
    assert [type(each) for each in outcomes] == [Retry] * 4 + [Buried]


async def test_a_page_gives_the_attempts_back_too(any_sessions: Sessions) -> None:
    """A loop whose every page fails once goes to its end."""
    failed = set[int]()

    async def note(context: JobContext, page: int) -> None:
        if page not in failed:
            failed.add(page)
            raise RuntimeError(f"page {page}")

    async def pages(outside: Outside[Party], send: Send) -> int:
        for page in range(outside.cursor("pages", 0), 4):
            await outside.advance("pages", page + 1, note, page)
        return 4

    kind = job(outside=pages)(answer)
    outcomes = [await attempt(any_sessions, Party(), n, kind, max_attempts=2) for n in range(1, 6)]
    assert [type(each) for each in outcomes] == [Retry] * 4 + [Completed]


async def test_jobs_that_come_back_at_once_stand_in_line(
    postgresql_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the pool has few connections and is not waited at for long, no job takes that for an outage."""
    config = DatabaseConfig(url=postgresql_url, pool_size=4, pool_timeout=0.2)
    async with open_database(config) as small:
        add, party = steps.add_and_tell, Party()

        async def add_slowly(*args: Any) -> bool:
            await asyncio.sleep(0.05)
            return await add(*args)

        monkeypatch.setattr(steps, "add_and_tell", add_slowly)
        registry = Registry([send], party)
        with capture_logs() as logs:
            outcomes = await asyncio.gather(
                *(
                    process_one(delivery(Send(), f"job-{n}"), registry, small.sessions, Policy())
                    for n in range(30)
                )
            )
        assert set(outcomes) == {Completed(3)}
        assert "step.not_recorded_yet" not in {each["event"] for each in logs}
        assert len(party.calls) == 90


async def test_a_step_costs_one_statement_beside_its_begin_and_commit(
    sessions: Sessions, database: Database
) -> None:
    """Three trips to the database; a run reads all recorded steps in one."""
    sent = list[str]()

    async def one_step(outside: Outside[Party], send: Send) -> int:
        with statements(database) as inside:
            await outside.step("find", outside.resources.call, "find")
        sent.extend(inside)
        return 1

    outcome = await attempt(sessions, Party(), 1, job(outside=one_step)(answer))
    assert outcome == Completed(1)
    assert len(sent) == 1
    async with sessions() as session:
        [entry] = await audit.of_job(session, "job-1")
    assert (entry.action, entry.after, entry.kind) == ("step", {"step": "find"}, "send")


@pytest.mark.parametrize(
    ("limits", "problem", "calls"),
    [
        ({"max_steps": 2}, "a job has at most 2 steps (LEDGERQ_MAX_STEPS)", NAMES[:2]),
        ({"max_answers": 2}, "larger than 2 bytes (LEDGERQ_MAX_ANSWERS)", NAMES),
    ],
)
async def test_steps_have_limits_that_settings_move(
    any_sessions: Sessions, limits: dict[str, int], problem: str, calls: tuple[str, ...]
) -> None:
    """Beyond them the job is buried at once; a replay does no step twice."""
    party = Party()
    for _ in range(2):
        outcome = await attempt(any_sessions, party, 1, **limits)
        assert isinstance(outcome, Buried)
        assert problem in str(outcome.error)
        async with transaction(any_sessions) as session:
            await replays.replay(session, ["job-1"], actor="ada", reason="x")
    assert tuple(party.calls) == calls


async def buried_after(sessions: Sessions, party: Party) -> None:
    async def fail(context: JobContext[Party], send: Send, steps: int) -> int:
        raise Permanent("out of paper")

    assert isinstance(await attempt(sessions, party, 1, job(outside=three_steps)(fail)), Buried)


@pytest.mark.parametrize(
    ("name", "again"),
    [("find", ["find", "charge", "mail"]), ("charge", ["charge", "mail"]), ("mail", ["mail"])],
)
async def test_a_replay_from_a_step_does_it_and_the_later_ones_again(
    any_sessions: Sessions, name: str, again: list[str]
) -> None:
    """It tells which: what they do outside may then happen twice."""
    party = Party()
    await buried_after(any_sessions, party)
    async with transaction(any_sessions) as session:
        [replayed] = await replays.replay(
            session, ["job-1"], actor="ada", reason="x", from_step=name
        )
    assert list(replayed.done_again) == again
    assert isinstance(await attempt(any_sessions, party, 1), Completed)
    assert party.calls == [*NAMES, *again]


@pytest.mark.parametrize(
    ("edit", "again"),
    [({"payload": {"number": 2}}, NAMES), ({"new_job_id": "job-2"}, NAMES), ({}, ())],
)
async def test_a_replay_tells_which_steps_are_done_again(
    any_sessions: Sessions, edit: dict[str, Any], again: tuple[str, ...]
) -> None:
    """All of them with other fields or another id; none in a plain one. The audit log keeps it."""
    await buried_after(any_sessions, Party())
    async with transaction(any_sessions) as session:
        [replayed] = await replays.replay(session, ["job-1"], actor="ada", reason="x", **edit)
    assert replayed.done_again == again
    async with any_sessions() as session:
        entry = (await audit.of_job(session, "job-1"))[-1]
    assert (entry.action, tuple(entry.after.get("done_again", ()))) == ("replay", again)


async def test_a_replay_from_a_step_goes_alone(any_sessions: Sessions) -> None:
    """Beside other fields, another kind or id, which do all steps again, it would mean nothing."""
    await buried_after(any_sessions, Party())
    for edit in ({"payload": {"number": 2}}, {"new_job_id": "job-2"}, {"kind": "send"}):
        with pytest.raises(InvalidRequest, match="from_step: goes alone"):
            async with transaction(any_sessions) as session:
                await replays.replay(
                    session, ["job-1"], actor="ada", reason="x", from_step="mail", **edit
                )


async def test_a_step_in_a_loop_is_done_again_with_its_cursor_only(any_sessions: Sessions) -> None:
    """The loop would not come to it again, and the replay would promise what it does not do."""

    async def note(context: JobContext, page: int) -> None:
        """Nothing."""

    async def pages(outside: Outside[Party], send: Send) -> int:
        for page in range(outside.cursor("pages", 0), 3):
            await outside.step(f"mail:{page}", outside.resources.call, "mail")
            await outside.advance("pages", page + 1, note, page)
        raise Permanent("out of paper")

    assert isinstance(await attempt(any_sessions, Party(), 1, job(outside=pages)(answer)), Buried)
    with pytest.raises(InvalidRequest, match="loop whose cursor pages has moved on"):
        async with transaction(any_sessions) as session:
            await replays.replay(session, ["job-1"], actor="ada", reason="x", from_step="mail:1")
    async with transaction(any_sessions) as session:
        [replayed] = await replays.replay(
            session, ["job-1"], actor="ada", reason="x", from_step="mail:0"
        )
    assert len(replayed.done_again) == 4


async def test_steps_of_all_runs_count_against_the_limit(any_sessions: Sessions) -> None:
    """A name that is new in each attempt gives no attempts back for ever."""
    party = Party()

    async def new_name(outside: Outside[Party], send: Send) -> int:
        await outside.step(f"call:{outside.attempt}", outside.resources.call, "find")
        raise RuntimeError("out of paper")

    kind = job(outside=new_name)(answer)
    outcomes = [await attempt(any_sessions, party, n, kind, max_steps=4) for n in range(1, 6)]
    assert [type(each) for each in outcomes] == [Retry] * 4 + [Buried]
    assert "at most 4 steps" in str(getattr(outcomes[-1], "error", ""))


async def test_a_page_job_keeps_its_attempts_where_a_worker_lacks_its_kind(
    any_sessions: Sessions,
) -> None:
    """In a deploy: its steps tell how far it was, though they were not read."""
    party = Party(fails={"mail": 1})
    assert isinstance(await attempt(any_sessions, party, 30), Retry)
    lacking, limits = Registry([]), Policy(max_attempts=3)
    outcome = await process_one(delivery(Send(), attempt=31), lacking, any_sessions, limits)
    assert isinstance(outcome, Retry)
    assert isinstance(await attempt(any_sessions, party, 32), Completed)


def test_no_argument_of_a_call_is_told() -> None:
    """It may be secret."""
    assert _name(partial(partial(sorted, [1]), key="sk_live")) == "sorted"
    assert _name(Party) == "Party"


async def test_a_replay_from_a_step_that_is_not_there_names_those_that_are(
    any_sessions: Sessions,
) -> None:
    """Nothing is replayed then, nor if the step is in doubt, or the replay is of many jobs."""
    await buried_after(any_sessions, Party())
    with pytest.raises(InvalidRequest, match="no step 'send'; the job has: find, charge, mail"):
        async with transaction(any_sessions) as session:
            await replays.replay(session, ["job-1"], actor="ada", reason="x", from_step="send")
    with pytest.raises(InvalidRequest, match="from_step: is for one job"):
        async with transaction(any_sessions) as session:
            await replays.replay(
                session, ["job-1", "job-2"], actor="ada", reason="x", from_step="find"
            )
    assert [each.name for each in await rows(any_sessions, JobStep)] == [*NAMES]


def render(outside: Outside[Party], send: Send) -> str:
    assert threading.current_thread() is not threading.main_thread()
    return outside.key("page") + str(send.number)


async def test_a_plain_function_outside_runs_in_a_thread(any_sessions: Sessions) -> None:
    """The handler gets what it answers; the event loop goes on meanwhile."""
    given = list[str]()

    async def keep(context: JobContext[Party], send: Send, page: str) -> int:
        given.append(page)
        return len(page)

    kind = job(outside=render, in_thread=True)(keep)
    assert await attempt(any_sessions, Party(), 1, kind) == Completed(33)
    assert given[0].endswith("1")


def test_a_thread_is_asked_for_by_name() -> None:
    """A plain def without the word is refused at import, and so is an async def with it."""
    with pytest.raises(DefinitionError, match=r"is a plain def.*in_thread=True"):
        job(outside=render)(answer)  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="is an async def, which runs in no thread"):
        job(outside=three_steps, in_thread=True)(answer)  # type: ignore[arg-type]


async def test_threads_that_hang_take_no_place_of_other_calls() -> None:
    """A call that is over leaves its thread to its end; as many calls as before have a thread, until too many hang."""
    goes_on = threading.Event()

    def hang() -> None:
        goes_on.wait()

    async def leave_one() -> None:
        with pytest.raises(TimeoutError, match="hang took longer than"):
            await call_within(0.01, hang)

    try:
        with capture_logs() as logs:
            await asyncio.gather(*(leave_one() for _ in range(MAX_THREADS + 1)))
        assert await asyncio.wait_for(call_within(None, len, "abc"), 5) == 3
        left = [each for each in logs if each["event"] == "call.thread_left"]
        assert left[-1]["threads"] == len(left) >= MAX_THREADS
        assert left[-1]["function"].endswith("hang")
        while len(left) < MAX_LEFT:
            await leave_one()
            left.append({})
        with pytest.raises(RuntimeError, match="96 threads of earlier calls have not ended"):
            for _ in range(MAX_THREADS):
                await call_within(1, len, "abc")
                await leave_one()
    finally:
        goes_on.set()
    await eventually(_can_be_called)


async def _can_be_called() -> bool:
    with suppress(RuntimeError):
        return bool(await call_within(1, len, "abc"))
    return False
