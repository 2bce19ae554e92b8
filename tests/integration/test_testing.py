"""`ledgerq.testing`, by the task manager's own handlers: what it shows is what a worker would do."""

import asyncio
import functools
import subprocess
import sys
from collections.abc import Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from db import projects
from db.inputs import NewProject
from db.models import Project, Task
from jobs.kinds import CreateProject, CreateTask, DeleteTask, PurgeDeletedTasks
from ledgerq import App, JobContext, Outside, Payload, Permanent, job
from ledgerq.errors import InDoubt, MissingReference
from ledgerq.execution.outcome import Buried, Completed, Duplicate
from ledgerq.staging import stage
from ledgerq.store.inbox import insert_receipt
from ledgerq.store.tables import DeadLetter, JobState, JobStep, ProcessedJob
from ledgerq.testing import JobNotCompleted, JobTester, OutsideCall


async def test_a_job_answers_and_leaves_rows_and_entries(job_tester: JobTester) -> None:
    """As in a worker; a failed one raises what its handler raised, as the cause."""
    project = await job_tester.run(CreateProject(name="Launch"), job_id="p")
    task: int = await job_tester.run(CreateTask(title="Write", project_id=project), job_id="t")
    assert [(each.id, each.title) for each in await job_tester.rows(Task)] == [(task, "Write")]
    [entry] = await job_tester.entries("t")
    assert (entry.actor, entry.action, entry.entity_id) == ("test", "create", str(task))
    with pytest.raises(JobNotCompleted, match=r"job bad: create_task was buried \(refused\)") as no:
        await job_tester.run(CreateTask(title="x", project_id=99), job_id="bad")
    assert isinstance(no.value.outcome, Buried)
    assert isinstance(no.value.__cause__, MissingReference)
    assert [each.job_id for each in await job_tester.rows(DeadLetter)] == ["bad"]
    assert len(await job_tester.entries()) == 2


async def test_a_job_is_done_once_however_often_it_is_delivered(job_tester: JobTester) -> None:
    """The second answer is the first one."""
    first = await job_tester.run(CreateProject(name="Launch"), job_id="a")
    assert await job_tester.deliver_again("a") == Duplicate(JobState.DONE, first)
    assert await job_tester.run(CreateProject(name="Launch"), job_id="a") == first
    assert len(await job_tester.rows(Project)) == 1


async def test_a_crash_before_the_commit_leaves_nothing(job_tester: JobTester) -> None:
    """So the next delivery does the work."""
    await job_tester.crash(CreateProject(name="Launch"), job_id="a", moment="before commit")
    assert (await job_tester.rows(Project), await job_tester.rows(ProcessedJob)) == ([], [])
    assert isinstance(await job_tester.deliver_again("a"), Completed)
    assert len(await job_tester.rows(Project)) == 1


async def test_a_crash_after_the_commit_leaves_all_of_it(job_tester: JobTester) -> None:
    """So the next delivery is a duplicate."""
    await job_tester.crash(CreateProject(name="Launch"), job_id="a", moment="after commit")
    assert len(await job_tester.rows(Project)) == 1
    [project] = await job_tester.rows(Project)
    assert await job_tester.deliver_again("a") == Duplicate(JobState.DONE, project.id)


class Fail(Payload[set[int]], kind="fail"):
    """A payload."""

    fails: bool = False


@job
async def fail(context: JobContext, order: Fail) -> set[int]:
    """Fails as it is told."""
    if order.fails:
        raise ValueError("so it is")
    return {1, 2}


def own_tester(given: JobTester, *jobs: Any) -> JobTester:
    """A tester of these jobs, on the same database."""
    url = given.database.config.url.render_as_string(hide_password=False)
    return JobTester(App(jobs=jobs), url)


@pytest.mark.parametrize("moment", ["before commit", "after commit"])
async def test_a_job_that_fails_before_its_crash_is_told(
    job_tester: JobTester, moment: Any
) -> None:
    """The test would go on as if the worker had died at the commit."""
    own = own_tester(job_tester, fail)
    with pytest.raises(JobNotCompleted, match="so it is"):
        await own.crash(Fail(fails=True), job_id="a", moment=moment)


async def test_what_a_test_misspells_is_told(job_tester: JobTester) -> None:
    """With what it may say."""
    own = own_tester(job_tester, fail)
    with pytest.raises(
        ValueError, match="say 'before commit' or 'after commit' or 'before record'"
    ):
        await own.crash(Fail(), job_id="a", moment="after  commit")  # type: ignore[call-overload]
    with pytest.raises(LookupError, match="has delivered no job 'nope'; run it first"):
        await own.deliver_again("nope")


async def test_staged_jobs_answer_in_their_types(job_tester: JobTester) -> None:
    """As those do that `run` runs."""
    own = own_tester(job_tester, fail)
    async with own.transaction() as session:
        await stage(session, Fail())
    assert await own.run(Fail()) == {1, 2}
    assert await own.run_staged() == [{1, 2}]


@job
async def give_up(context: JobContext, order: Fail) -> set[int]:
    """Fails for good."""
    raise Permanent("there is no such order")


@pytest.mark.parametrize("moment", ["before commit", "after commit"])
async def test_a_job_that_is_buried_before_its_crash_is_told(
    job_tester: JobTester, moment: Any
) -> None:
    """The burial has a commit of its own, which is not the job's. The second one had ended before."""
    own = own_tester(job_tester, give_up)
    with pytest.raises(JobNotCompleted, match="was buried"):
        await own.crash(Fail(), job_id="a", moment=moment)
    assert [each.job_id for each in await own.rows(DeadLetter)] == ["a"]
    with pytest.raises(JobNotCompleted, match="had ended before: dead"):
        await own.crash(Fail(), job_id="a", moment=moment)


class Book(Payload[int], kind="book"):
    """A trip of so many days."""

    days: int = 2


@dataclass
class Agency:
    """What the jobs call; notes what reaches it."""

    asked: list[str] = field(default_factory=list)

    async def reserve(self, days: int, *, idempotency_key: str = "") -> int:
        self.asked.append(f"reserve {idempotency_key}")
        return days * 10

    def ticket(self, seat: int) -> str:
        """A plain function, which runs in a thread."""
        self.asked.append("ticket")
        return f"seat {seat}"


async def add_project(context: JobContext, name: str) -> int:
    return (await projects.create(context.session, context.origin, NewProject(name=name))).id


async def travel(outside: Outside[Agency], book: Book) -> int:
    agency = outside.resources
    seat = await outside.step(
        "reserve", agency.reserve, book.days, idempotency_key=outside.key("reserve")
    )
    await outside.call(functools.partial(agency.ticket, seat))
    await outside.step("ticket", agency.ticket, seat)
    return await outside.transaction("write", add_project, "trip")


async def loop(outside: Outside[Agency], book: Book) -> int:
    day = outside.cursor("days", start=0)
    while day < book.days:
        day += 1
        await outside.advance("days", day, add_project, f"day {day}")
        await outside.progress(day, of=book.days)
    return day


async def trip(context: JobContext, book: Book, number: int) -> int:
    """Takes what its function outside has answered."""
    await add_project(context, "arrived")
    return number


def agency_of(given: JobTester, outside: Callable[..., Any]) -> tuple[JobTester, Agency]:
    own = own_tester(given, job(outside=outside)(trip))
    own.resources = agency = Agency()
    return own, agency


async def names(tester: JobTester) -> list[str]:
    return [each.name for each in await tester.rows(Project)]


async def test_a_worker_dies_between_an_answer_and_its_record(job_tester: JobTester) -> None:
    """Nothing is recorded: the next delivery calls again, with the key that the test can name."""
    own, agency = agency_of(job_tester, travel)
    await own.crash(Book(), job_id="a", moment="before record", step="reserve")
    assert await own.rows(JobStep) == []
    assert await own.entries("a") == []
    assert isinstance(await own.deliver_again("a"), Completed)
    key = own.key("reserve", job_id="a")
    assert agency.asked == [f"reserve {key}", f"reserve {key}", "ticket", "ticket"]


async def test_a_test_sees_all_calls_of_a_job(job_tester: JobTester) -> None:
    """Over its deliveries, in their order, with what was recorded. A crash spends no attempt."""
    own, _ = agency_of(job_tester, travel)
    await own.crash(Book(), job_id="a", moment="before record", step="reserve")
    await own.crash(Book(), job_id="a", moment="before record", step="ticket")
    assert await own.run(Book(), job_id="a") == 1
    keyed = {"idempotency_key": own.key("reserve", job_id="a")}
    assert await own.calls("a") == [
        OutsideCall("reserve", "reserve", (2,), keyed, attempt=1),
        OutsideCall("reserve", "reserve", (2,), keyed, attempt=1, recorded=True),
        OutsideCall(None, "ticket", (), {}, attempt=1),
        OutsideCall("ticket", "ticket", (20,), {}, attempt=1),
        OutsideCall(None, "ticket", (), {}, attempt=1),
        OutsideCall("ticket", "ticket", (20,), {}, attempt=1, recorded=True),
    ]
    await own.run(Book(days=3), job_id="b")
    assert keyed != {"idempotency_key": own.key("reserve", job_id="b")}
    assert [each.args for each in await own.calls("b")] == [(3,), (), (30,)]
    assert len(await own.calls("a")) == 6


async def test_a_worker_dies_after_a_record(job_tester: JobTester) -> None:
    """Nothing after it has begun, and the next delivery does not call again."""
    own, agency = agency_of(job_tester, travel)
    await own.crash(Book(), job_id="a", moment="after record", step="reserve")
    [call] = await own.calls("a")
    assert call.recorded
    assert [each.name for each in await own.rows(JobStep)] == ["reserve"]
    assert isinstance(await own.deliver_again("a"), Completed)
    assert agency.asked == [f"reserve {own.key('reserve', job_id='a')}", "ticket", "ticket"]


async def test_a_step_at_most_once_whose_worker_died_is_in_doubt(job_tester: JobTester) -> None:
    """Its intent was committed, its answer was not."""

    async def once(outside: Outside[Agency], book: Book) -> int:
        return await outside.step("reserve", outside.resources.reserve, 1, at_most_once=True)

    own, agency = agency_of(job_tester, once)
    await own.crash(Book(), job_id="a", moment="before record", step="reserve")
    outcome = await own.deliver_again("a")
    assert isinstance(outcome, Buried)
    assert isinstance(outcome.error, InDoubt)
    assert len(agency.asked) == 1
    [call] = await own.calls("a")
    assert not call.recorded


async def test_a_worker_dies_in_the_middle_of_a_page(job_tester: JobTester) -> None:
    """Neither its rows nor its cursor stand; after the record, both do."""
    own, _ = agency_of(job_tester, loop)
    await own.crash(Book(), job_id="a", moment="before record", step="days")
    assert (await names(own), await own.rows(JobStep)) == ([], [])
    await own.crash(Book(), job_id="a", moment="after record", step="days")
    assert await names(own) == ["day 1"]
    await own.crash(Book(), job_id="a", moment="before record", step="days")  # of the second page
    assert await names(own) == ["day 1"]
    assert [each.result for each in await own.rows(JobStep)] == [1]
    assert await own.run(Book(), job_id="a") == 2
    assert await names(own) == ["day 1", "day 2", "arrived"]


async def test_a_worker_dies_in_a_transaction_outside(job_tester: JobTester) -> None:
    """Before its commit nothing of it stands; after it, all of it does."""
    own, _ = agency_of(job_tester, travel)
    await own.crash(Book(), job_id="a", moment="before record", step="write")
    assert await names(own) == []
    await own.crash(Book(), job_id="a", moment="after record", step="write")
    assert await names(own) == ["trip"]
    assert isinstance(await own.deliver_again("a"), Completed)
    assert await names(own) == ["trip", "arrived"]


async def cling(outside: Outside[Agency], book: Book) -> int:
    """Catches errors, and has more to do than the step at which its worker dies."""
    agency, answered = outside.resources, asyncio.Event()

    async def first() -> int:
        answered.set()
        return await agency.reserve(book.days)

    async def other(number: int) -> int:
        await answered.wait()
        return number

    others = [outside.step(f"other {n}", other, n) for n in range(9)]
    try:
        return sum(await asyncio.gather(outside.step("first", first), *others))
    except Exception:  # noqa: BLE001 - jobs do so
        agency.asked.append("error caught")
        return 0
    finally:
        with suppress(asyncio.CancelledError):
            await outside.step("mail", agency.ticket, 1)
        with suppress(asyncio.CancelledError):
            await outside.transaction("write", add_project, "trip")


@pytest.mark.parametrize("moment", ["before record", "after record"])
async def test_a_dead_worker_does_nothing_more(job_tester: JobTester, moment: Any) -> None:
    """Though the function catches errors, and has other steps under way."""
    own, agency = agency_of(job_tester, cling)
    await own.crash(Book(), job_id="a", moment=moment, step="first")
    assert agency.asked == ["reserve "]
    assert await names(own) == []
    recorded = {each.name for each in await own.rows(JobStep)}
    assert ("first" in recorded) is (moment == "after record")
    assert not {"mail", "write"} & recorded
    assert {each.step for each in await own.calls("a") if each.recorded} == recorded


async def test_a_worker_dies_with_all_its_tasks(job_tester: JobTester) -> None:
    """Also with those that wait for something that does not come."""

    async def grouped(outside: Outside[Agency], book: Book) -> int:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(outside.step("reserve", outside.resources.reserve, 1))
            tasks.create_task(outside.call(asyncio.Event().wait))
        return 1

    own, _ = agency_of(job_tester, grouped)
    async with asyncio.timeout(20):
        await own.crash(Book(), job_id="a", moment="after record", step="reserve")
    assert [(each.step, each.recorded) for each in await own.calls("a")] == [
        ("reserve", True),
        (None, False),
    ]


async def test_a_moment_that_did_not_come_is_told(job_tester: JobTester) -> None:
    """With the steps that the job has."""
    own, _ = agency_of(job_tester, travel)
    with pytest.raises(
        LookupError,
        match=r"book has no step 'resrve'; its steps in this run: 'reserve', 'ticket', 'write'",
    ):
        await own.crash(Book(), job_id="a", moment="after record", step="resrve")
    with pytest.raises(JobNotCompleted, match="had ended before: done"):
        await own.crash(Book(), job_id="a", moment="after record", step="reserve")
    await own.crash(Book(), job_id="b", moment="after record", step="reserve")
    with pytest.raises(LookupError, match=r"has not recorded 'reserve' in this run: an earlier"):
        await own.crash(Book(), job_id="b", moment="before record", step="reserve")
    plain = own_tester(job_tester, fail)
    with pytest.raises(LookupError, match=r"fail has no step 'a'; its steps in this run: none"):
        await plain.crash(Fail(), job_id="c", moment="after record", step="a")


async def test_a_step_that_fails_before_its_crash_is_told(job_tester: JobTester) -> None:
    """The worker did not come to the record."""

    async def fails(outside: Outside[Agency], book: Book) -> int:
        return await outside.step("reserve", no_seat)

    async def no_seat() -> int:
        raise ConnectionError("there is no seat")

    own, _ = agency_of(job_tester, fails)
    with pytest.raises(JobNotCompleted, match="there is no seat"):
        await own.crash(Book(), job_id="a", moment="before record", step="reserve")
    [call] = await own.calls("a")
    assert not call.recorded


@pytest.mark.parametrize("moment", ["before commit", "after commit"])
async def test_the_jobs_commit_comes_after_all_that_is_outside(
    job_tester: JobTester, moment: Any
) -> None:
    """The commits of pages and of progress are not the one at which the worker dies."""
    own, _ = agency_of(job_tester, loop)
    await own.crash(Book(), job_id="a", moment=moment)
    pages = ["day 1", "day 2"]
    assert await names(own) == (pages if moment == "before commit" else [*pages, "arrived"])


async def test_what_a_test_misspells_of_a_step_is_told(job_tester: JobTester) -> None:
    """A moment of a step has a name, one of the job has none."""
    own: Any = own_tester(job_tester, fail)
    with pytest.raises(ValueError, match="step: 'after record' is a step's moment; say which"):
        await own.crash(Fail(), job_id="a", moment="after record")
    with pytest.raises(ValueError, match="step: 'after commit' is the job's moment"):
        await own.crash(Fail(), job_id="a", moment="after commit", step="reserve")
    with pytest.raises(LookupError, match="has delivered no job 'nope'; run it first"):
        await own.calls("nope")
    with pytest.raises(LookupError, match="has delivered no job 'nope'; run it first"):
        own.key("reserve", job_id="nope")
    assert await own.rows(ProcessedJob) == []


class Remind(Payload[str], kind="remind"):
    """A payload that goes on with another one."""

    times: int = 1


@job
async def remind(context: JobContext[str], reminder: Remind) -> str:
    """Stages the next one, some days later."""
    if reminder.times:
        await context.stage(Remind(times=reminder.times - 1), delay=timedelta(days=3))
    return f"{context.resources} on {context.now:%Y}"


class Clocks(Payload[list[int]], kind="clocks"):
    pass


async def years(outside: Outside, clocks: Clocks) -> list[int]:
    async def year(context: JobContext) -> int:
        return context.now.year

    last = outside.cursor("last", 0)
    await outside.advance("last", last + 1, year)
    return [await outside.transaction("page", year)]


@job(outside=years)
async def clocks(context: JobContext, clocks: Clocks, before: list[int]) -> list[int]:
    return [*before, context.now.year]


async def test_each_context_has_the_clock_of_the_test(job_tester: JobTester) -> None:
    """That of the handler, and those of transactions outside."""
    own = JobTester(App(jobs=[clocks]), str(job_tester.database.config.url.render_as_string(hide_password=False)))  # fmt: skip
    own.advance(timedelta(days=800))
    year = (datetime.now(UTC) + timedelta(days=800)).year
    assert await own.run(Clocks()) == [year, year]


async def test_a_staged_job_that_was_cancelled_is_no_answer(job_tester: JobTester) -> None:
    """It did not complete."""
    async with job_tester.transaction() as session:
        await stage(session, CreateProject(name="Launch"), job_id="a")
        await insert_receipt(session, "a", "create_project", b"", state=JobState.CANCELLED)
    with pytest.raises(JobNotCompleted):
        await job_tester.run_staged()


async def test_what_is_staged_runs_when_it_is_due(job_tester: JobTester) -> None:
    """Time passes when the test says so; `context.now` goes with it."""

    @asynccontextmanager
    async def resources() -> Any:
        yield "mail"

    own = JobTester(App(jobs=[remind], resources=resources), str(job_tester.database.config.url.render_as_string(hide_password=False)))  # fmt: skip
    assert await own.run(Remind()) == f"mail on {datetime.now(UTC):%Y}"
    assert await own.staged() == [Remind(times=0)]
    assert await own.run_staged() == []
    own.advance(timedelta(days=800))
    own.resources = "fake mail"
    assert await own.run_staged() == [f"fake mail on {datetime.now(UTC) + timedelta(days=800):%Y}"]
    assert await own.staged() == []


async def test_parts_go_on_until_all_is_done(job_tester: JobTester) -> None:
    """A job that goes on is staged, and run as staged."""
    project = await job_tester.run(CreateProject(name="Launch"))
    for n in range(3):
        task = await job_tester.run(CreateTask(title=f"t{n}", project_id=project))
        await job_tester.run(DeleteTask(task_id=task))
    assert await job_tester.run(PurgeDeletedTasks(older_than_days=0, limit=2)) == 2
    assert await job_tester.run_staged() == [1]
    assert await job_tester.rows(Task) == []


SERVICE_TEST = """
from jobs.kinds import CreateProject


async def test_a_project_is_created(job_tester):
    assert await job_tester.run(CreateProject(name="Launch")) == 1


async def test_each_test_has_a_database_of_its_own(request):
    job_tester = request.getfixturevalue("job_tester")
    assert await job_tester.run(CreateProject(name="Launch")) == 1
"""


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_the_plugin_is_there_where_ledgerq_is_installed(tmp_path: Path, database: str) -> None:
    """Nothing but the fixture's name is needed; the ini option chooses the database."""
    root = Path(__file__).resolve().parents[2]
    (tmp_path / f"test_{uuid4().hex}.py").write_text(SERVICE_TEST)
    options = [
        "-o",
        "asyncio_mode=auto",
        "-o",
        "asyncio_default_fixture_loop_scope=function",
        "-o",
        f"ledgerq_database={database}",
        "-W",
        "error",
    ]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", str(tmp_path), *options, str(tmp_path)],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "2 passed" in ran.stdout, ran.stdout + ran.stderr
