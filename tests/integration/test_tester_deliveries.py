"""What a delivery by `job_tester` spends, when a staged job is due again, and which jobs run together: as in a worker."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import URL, text

from ledgerq import App, JobContext, Outside, Payload, RetryLater, Snooze, job
from ledgerq.config import Config
from ledgerq.database.engine import Sessions
from ledgerq.errors import SettingError
from ledgerq.execution.outcome import Buried, Completed, Retry
from ledgerq.execution.registry import Registry
from ledgerq.execution.replays import replay
from ledgerq.job import Kind
from ledgerq.staging import stage, stage_many
from ledgerq.store.tables import DeadLetter
from ledgerq.testing import JobNotCompleted, JobTester
from tests.support import drain, letter, our_worker

LONGEST_BACKOFF = timedelta(minutes=5)


@dataclass
class Seen:
    """What the jobs of one test have noted."""

    attempts: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    together: list[int] = field(default_factory=list)


seen = Seen()


@pytest.fixture(autouse=True)
def forget() -> None:
    """Each test has notes of its own."""
    seen.__init__()  # type: ignore[misc]


class Try(Payload[int], kind="try"):
    """How each delivery of the job is to end; those after the last one succeed."""

    ends: tuple[str, ...]


@job
async def try_it(context: JobContext, order: Try) -> int:
    attempt = context.origin.attempt
    assert attempt
    seen.attempts.append(attempt)
    match order.ends[len(seen.attempts) - 1 :][:1]:
        case ("snooze",):
            raise Snooze(0.01)
        case ("snooze for long",):
            raise Snooze(3600)
        case ("later",):
            raise RetryLater(0.01)
        case ("later by far",):
            raise RetryLater(3600)
        case ("fail",):
            raise ValueError("so it is")
        case ("disconnect",):
            await context.session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    return attempt


class Tell(Payload[str], kind="tell"):
    name: str
    pause: float = 0


@job
async def tell(context: JobContext, order: Tell) -> str:
    if order.pause and order.name not in seen.names:
        seen.names.append(order.name)
        raise RetryLater(order.pause)
    seen.names.append(order.name)
    return order.name


class Ask(Payload[str], kind="ask"):
    fails: int = 0


async def ask_outside(outside: Outside, order: Ask) -> str:
    async def asked() -> str:
        seen.names.append("asked")
        if len(seen.names) <= order.fails:
            raise ConnectionError("nobody is there")
        return "answer"

    return await outside.step("asked", asked)


@job(outside=ask_outside)
async def ask(context: JobContext, order: Ask, answer: str) -> str:
    return answer


class Count(Payload[int], kind="count"):
    number: int


@job
async def count(context: JobContext, order: Count) -> int:
    seen.together.append(1)
    if order.number < 0:
        raise ValueError("less than nothing")
    return context.now.year


@count.many
async def count_many(contexts: Sequence[JobContext], orders: Sequence[Count]) -> list[int]:
    seen.together.append(len(orders))
    if any(order.number < 0 for order in orders):
        raise ValueError("less than nothing")
    return [context.now.year for context in contexts]


KINDS: list[Kind[Any, Any]] = [try_it, tell, ask, count]


@pytest.fixture(scope="session")
def ledgerq_app() -> App:
    """What `job_tester` runs here."""
    return App(jobs=KINDS)


def on(url: URL) -> JobTester:
    return JobTester(App(jobs=KINDS), url.render_as_string(hide_password=False))


async def staged(tester: JobTester, payload: Payload[Any], **options: Any) -> None:
    async with tester.transaction() as session:
        await stage(session, payload, **options)


async def test_a_staged_job_that_fails_is_buried_after_its_last_attempt(
    job_tester: JobTester,
) -> None:
    """Each delivery of a staged job spends one of its attempts, and the last one writes the dead letter."""
    await staged(job_tester, Try(ends=("fail",) * 9), job_id="a")
    for _ in range(5):
        with pytest.raises(JobNotCompleted):
            await job_tester.run_staged()
        job_tester.advance(LONGEST_BACKOFF)
    assert await job_tester.run_staged() == []
    assert seen.attempts == [1, 2, 3, 4, 5]
    [letter] = await job_tester.rows(DeadLetter)
    assert [note["attempt"] for note in letter.attempts] == [1, 2, 3, 4, 5]
    assert await job_tester.staged() == []


async def test_calls_name_the_attempts_of_a_staged_job(job_tester: JobTester) -> None:
    """A call that failed is of the first attempt, the recorded one of the second."""
    await staged(job_tester, Ask(fails=1), job_id="a")
    with pytest.raises(JobNotCompleted, match="nobody is there"):
        await job_tester.run_staged()
    job_tester.advance(LONGEST_BACKOFF)
    assert await job_tester.run_staged() == ["answer"]
    calls = await job_tester.calls("a")
    assert [(call.attempt, call.recorded) for call in calls] == [(1, False), (2, True)]


async def test_snooze_spends_no_attempt(job_tester: JobTester) -> None:
    """A job may snooze more often than it may fail."""
    order = Try(ends=("snooze",) * 8)
    for _ in range(8):
        outcome = await job_tester.outcome(order, job_id="a")
        assert isinstance(outcome, Retry)
    assert await job_tester.deliver_again("a") == Completed(1)
    assert seen.attempts == [1] * 9


async def test_a_lost_connection_is_an_interruption_and_spends_no_attempt(
    postgresql_url: URL,
) -> None:
    """A job is buried only after `Policy.max_interruptions` of them."""
    tester, order = on(postgresql_url), Try(ends=("disconnect",) * 51)
    for _ in range(50):
        assert isinstance(await tester.outcome(order, job_id="a"), Retry)
    assert isinstance(await tester.outcome(order, job_id="a"), Buried)
    assert seen.attempts == [1] * 51


@pytest.mark.parametrize(("payload", "crashes"), [(Tell(name="x"), 3), (Ask(), 6)])
async def test_a_job_whose_workers_die_is_buried(
    job_tester: JobTester, payload: Payload[str], crashes: int
) -> None:
    """Crashes spend no attempt, and after the last one that is allowed no worker runs the job."""
    for _ in range(crashes):
        await job_tester.crash(payload, job_id="a", moment="before commit")
    outcome = await job_tester.deliver_again("a")
    assert isinstance(outcome, Buried)
    assert outcome.reason == "worker_lost"
    [letter] = await job_tester.rows(DeadLetter)
    assert letter.attempt == 1
    assert [note["error"] for note in letter.attempts[:-1]] == ["the worker died"] * crashes


async def test_attempts_count_anew_once_a_job_has_ended(job_tester: JobTester) -> None:
    """What Redis knew of a job is gone with the job, so that a replay has all its attempts."""
    order = Try(ends=("fail",) * 6)
    for _ in range(5):
        await job_tester.outcome(order, job_id="a")
    async with job_tester.transaction() as session:
        await replay(session, ["a"], actor="ops", reason="mended")
    assert isinstance(await job_tester.outcome(order, job_id="a"), Retry)
    assert seen.attempts == [1, 2, 3, 4, 5, 1]


async def test_jobs_of_one_ordering_key_run_in_the_order_staged(job_tester: JobTester) -> None:
    """A job waits while an older one of its key is staged, even if that one is due later."""
    await staged(job_tester, Tell(name="first"), ordering_key="k", delay=timedelta(hours=1))
    await staged(job_tester, Tell(name="second"), ordering_key="k")
    await staged(job_tester, Tell(name="other"), ordering_key="other")
    assert await job_tester.run_staged() == ["other"]
    job_tester.advance(timedelta(hours=1))
    assert await job_tester.run_staged() == ["first", "second"]


async def test_a_paused_job_holds_up_its_ordering_key(job_tester: JobTester) -> None:
    """The next job of the key runs when the paused one has ended."""
    await staged(job_tester, Tell(name="first", pause=60), ordering_key="k")
    await staged(job_tester, Tell(name="second"), ordering_key="k")
    with pytest.raises(JobNotCompleted):
        await job_tester.run_staged()
    assert await job_tester.run_staged() == []
    job_tester.advance(timedelta(seconds=60))
    assert await job_tester.run_staged() == ["first", "second"]


@pytest.mark.parametrize("end", ["snooze for long", "later by far"])
async def test_a_staged_job_is_due_again_after_its_pause(job_tester: JobTester, end: str) -> None:
    """Time passes by `advance`; a delivery that a test asks for does not wait."""
    await staged(job_tester, Try(ends=(end, end)), job_id="a")
    with pytest.raises(JobNotCompleted):
        await job_tester.run_staged()
    job_tester.advance(timedelta(minutes=59))
    assert await job_tester.run_staged() == []
    assert isinstance(await job_tester.deliver_again("a"), Retry)
    job_tester.advance(timedelta(minutes=59))
    assert await job_tester.run_staged() == []
    job_tester.advance(timedelta(minutes=1))
    assert len(await job_tester.run_staged()) == 1


async def test_a_staged_job_is_due_again_after_the_lease_of_its_dead_worker(
    job_tester: JobTester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then nobody knows that the worker died."""
    monkeypatch.setenv("LEDGERQ_LEASE", "600")
    await staged(job_tester, Tell(name="x"), job_id="a")
    await job_tester.crash(Tell(name="x"), job_id="a", moment="before commit")
    job_tester.advance(timedelta(minutes=9))
    assert await job_tester.run_staged() == []
    job_tester.advance(timedelta(minutes=1))
    assert await job_tester.run_staged() == ["x"]


async def test_the_settings_of_a_worker_limit_jobs_in_tests(
    job_tester: JobTester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read at each delivery, and Redis need not be named."""
    monkeypatch.setenv("LEDGERQ_MAX_ATTEMPTS", "2")
    order = Try(ends=("fail", "fail"))
    assert isinstance(await job_tester.outcome(order, job_id="a"), Retry)
    assert isinstance(await job_tester.outcome(order, job_id="a"), Buried)
    monkeypatch.setenv("LEDGERQ_MAX_ATTEMPTS", "two")
    with pytest.raises(SettingError, match="LEDGERQ_MAX_ATTEMPTS"):
        await job_tester.run(Tell(name="x"))


async def test_first_deliveries_of_a_kind_with_a_function_for_many_go_there(
    job_tester: JobTester,
) -> None:
    """All that are due share a transaction, and their contexts have the tester's time; answers are in the order staged."""
    async with job_tester.transaction() as session:
        await stage_many(session, [Count(number=1), Count(number=2), Tell(name="x")])
    job_tester.advance(timedelta(days=800))
    year = (datetime.now(UTC) + timedelta(days=800)).year
    assert await job_tester.run_staged() == [year, year, "x"]
    assert seen.together == [2]


async def test_a_bad_job_is_found_among_those_that_share_a_transaction(
    job_tester: JobTester,
) -> None:
    """The others commit; the bad one runs alone from then on."""
    async with job_tester.transaction() as session:
        await stage_many(session, [Count(number=number) for number in (1, 2, -3, 4)])
    with pytest.raises(JobNotCompleted, match="less than nothing"):
        await job_tester.run_staged()
    assert seen.together == [4, 2, 2, 1, 1]
    assert await job_tester.staged() == [Count(number=-3)]
    async with job_tester.transaction() as session:
        await stage_many(session, [Count(number=5), Count(number=6)])
    job_tester.advance(LONGEST_BACKOFF)
    with pytest.raises(JobNotCompleted, match="less than nothing"):
        await job_tester.run_staged()
    assert len(await job_tester.run_staged()) == 2
    assert seen.together[5:] == [1, 2]


async def test_groups_are_no_larger_than_a_workers_batch(
    job_tester: JobTester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`LEDGERQ_BATCH=1` gives each job its own transaction."""
    monkeypatch.setenv("LEDGERQ_BATCH", "2")
    async with job_tester.transaction() as session:
        await stage_many(session, [Count(number=number) for number in range(3)])
    assert len(await job_tester.run_staged()) == 3
    assert seen.together == [2, 1]


async def test_attempts_are_those_that_a_worker_counts(
    config: Config, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker on Redis and the tester run the same job as often, and leave the same notes in its dead letter."""
    monkeypatch.setenv("LEDGERQ_MAX_ATTEMPTS", "3")
    limited = replace(config, worker=config.worker.model_copy(update={"max_attempts": 3}))
    tester = on(config.database.url)
    order = Try(ends=("snooze", "later", "disconnect", "snooze", "later", "later"))
    await staged(tester, order, job_id="by a worker")
    await drain(our_worker(limited, Registry(KINDS), burst=True))
    by_worker, seen.attempts = seen.attempts, []
    await staged(tester, order, job_id="by the tester")
    while await tester.staged():
        with pytest.raises(JobNotCompleted):
            await tester.run_staged()
        tester.advance(LONGEST_BACKOFF)
    assert seen.attempts == by_worker == [1, 1, 2, 2, 2, 3]
    mine, its = await letter(sessions, "by the tester"), await letter(sessions, "by a worker")
    assert (mine.attempt, mine.reason) == (its.attempt, its.reason)
    assert [told(note) for note in mine.attempts] == [told(note) for note in its.attempts]


def told(note: dict[str, Any]) -> tuple[int, str]:
    return note["attempt"], note["error"]
