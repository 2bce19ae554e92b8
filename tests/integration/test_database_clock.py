"""Times to come are counted by the database's clock, whatever the producer's says; a cancelled job frees its key."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from jobs.kinds import CreateProject, CreateTask
from ledgerq.database.engine import Sessions
from ledgerq.database.transaction import transaction
from ledgerq.errors import InvalidRequest, JobError
from ledgerq.execution import interventions, replays
from ledgerq.execution.outcome import Buried
from ledgerq.execution.retry import Policy
from ledgerq.staging import StagedJob, stage, stage_many
from ledgerq.store.tables import OutboxMessage, UniqueKey
from ledgerq.wire.payload import Payload
from ledgerq.wire.request import Request, Unique
from tests.support import count, process_one, rows, staged_delivery
from worker.app import app

LAUNCH = CreateProject(name="Launch")
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
SOON = timedelta(seconds=20)  # a test takes less
SLOW = (
    "CREATE SCHEMA slow",
    *(
        f"CREATE FUNCTION slow.{name}() RETURNS timestamptz LANGUAGE sql AS "
        f"$$ SELECT pg_catalog.{name}() - interval '1 day' $$"
        for name in ("now", "clock_timestamp", "statement_timestamp")
    ),
)


async def staged(sessions: Sessions, request: Request) -> StagedJob:
    async with transaction(sessions) as session:
        return (await stage_many(session, [request]))[0]


async def test_a_producers_clock_does_not_matter(sessions: Sessions) -> None:
    """The database is a day behind: delays and windows end by its clock, not by this machine's."""
    async with transaction(sessions) as session:
        for statement in SLOW:
            await session.execute(text(statement))
    async with transaction(sessions) as session:
        await session.execute(text("SET LOCAL search_path = slow, pg_catalog, public"))
        for n in range(2):
            unique = Unique(f"k{n}", HOUR)
            await stage(session, LAUNCH, job_id=f"j{n}", delay=n * HOUR, unique=unique)
    yesterday = datetime.now(UTC) - DAY
    due = {m.job_id: m.next_dispatch_at - yesterday for m in await rows(sessions, OutboxMessage)}
    assert abs(due["j0"]) < SOON
    assert abs(due["j1"] - HOUR) < SOON
    for key in await rows(sessions, UniqueKey):
        assert abs(key.expires_at - yesterday - HOUR) < SOON
    # by the right clock, the windows are over
    assert (await staged(sessions, Request(LAUNCH, unique=Unique("k0", HOUR)))).is_new


async def test_delays_and_windows_end_when_they_should(any_sessions: Sessions) -> None:
    """To the second, from a fraction of one to ten years."""
    delays = [timedelta(milliseconds=1), timedelta(seconds=1.5), HOUR, timedelta(days=3650)]
    for n, delay in enumerate(delays):
        request = Request(LAUNCH, job_id=f"j{n}", delay=delay, unique=Unique(f"k{n}", delay))
        await staged(any_sessions, request)
    now = datetime.now(UTC)
    messages = {m.job_id: m.next_dispatch_at for m in await rows(any_sessions, OutboxMessage)}
    windows = {key.job_id: key.expires_at for key in await rows(any_sessions, UniqueKey)}
    for n, delay in enumerate(delays):
        assert abs(messages[f"j{n}"] - now - delay) < SOON
        assert abs(windows[f"j{n}"] - now - delay) < SOON


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("delay", {"delay": timedelta.max}),
        ("delay", {"delay": timedelta.min}),
        ("delay", {"delay": timedelta(days=3650, microseconds=1)}),
        ("delay", {"delay": timedelta(microseconds=-1)}),
        ("actor", {"actor": ""}),
        ("actor", {"actor": None}),
        ("actor", {"actor": "a\ud800b"}),
        ("trace_id", {"trace_id": "x" * 65}),
        ("ordering_key", {"ordering_key": "\x7f"}),
    ],
)
def test_a_request_refuses_its_fields_by_name(field: str, options: dict[str, object]) -> None:
    """Client and staging ask by the same request, so both doors are shut."""
    with pytest.raises(InvalidRequest) as caught:
        Request(LAUNCH, **options)  # type: ignore[arg-type]
    assert caught.value.problems[0].field == field


@pytest.mark.parametrize("window", [timedelta.max, timedelta(days=3651), -HOUR, timedelta(0)])
def test_a_window_without_end_is_refused(window: timedelta) -> None:
    """By its name."""
    with pytest.raises(InvalidRequest, match=r"unique\.window"):
        Unique("k", window)


class Anything(Payload):
    """A kind that takes what JSON has."""

    kind = "anything"

    value: object


class Open(Payload, extra="allow"):
    """A kind that takes any field."""

    kind = "open"


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "payload",
    [
        Anything(value="a\x00b"),
        Anything(value={"a\x00b": 1}),
        Anything(value=10**5000),
        Anything(value=nested(220)),
        Open(_actor="root"),
        Open(_staged="1"),
    ],
    ids=range(6),
)
async def test_a_payload_that_no_worker_could_read_is_not_staged(
    any_sessions: Sessions, payload: Payload
) -> None:
    """It is the producer's error, by name, not the database's and not a dead letter."""
    with pytest.raises(JobError, match="payload"):
        await staged(any_sessions, Request(payload))
    assert await count(any_sessions, OutboxMessage) == 0


async def test_a_backslash_before_u0000_is_a_text(any_sessions: Sessions) -> None:
    """Only NUL itself is refused."""
    await staged(any_sessions, Request(Anything(value="\\u0000"), job_id="j"))
    (message,) = await rows(any_sessions, OutboxMessage)
    assert message.payload == {"value": "\\u0000"}


async def test_a_cancelled_job_frees_its_unique_key(any_sessions: Sessions) -> None:
    """What is staged under the key next is a new job, which runs; another job's key stays."""
    request = Request(LAUNCH, unique=Unique("k", HOUR))
    first = await staged(any_sessions, request)
    other = await staged(any_sessions, Request(LAUNCH, unique=Unique("other", HOUR)))
    async with transaction(any_sessions) as session:
        await interventions.cancel(session, first.job_id, actor="me", reason="wrong")
    again = await staged(any_sessions, request)
    assert again.is_new
    assert again.job_id != first.job_id
    same = await staged(any_sessions, Request(LAUNCH, unique=Unique("other", HOUR)))
    assert (same.job_id, same.is_new) == (other.job_id, False)


async def test_a_discarded_job_frees_its_unique_key(any_sessions: Sessions) -> None:
    """It stays dead for good, so it must not stand in the way of a new one."""
    request = Request(CreateTask(title="x", project_id=99), unique=Unique("k", HOUR))
    first = await staged(any_sessions, request)
    arrived = await staged_delivery(any_sessions, first.job_id)
    assert isinstance(await process_one(arrived, app.registry(), any_sessions, Policy()), Buried)
    assert not (await staged(any_sessions, request)).is_new
    async with transaction(any_sessions) as session:
        await interventions.discard(session, [first.job_id], actor="me", reason="no use")
    assert (await staged(any_sessions, request)).is_new


@pytest.mark.parametrize("actor", ["", "a\x1bb", "x" * 201, "\u202e"])
async def test_who_acts_on_a_job_must_have_a_name(any_sessions: Sessions, actor: str) -> None:
    """Replay, discard and cancel refuse what can't be an author."""
    async with any_sessions() as session:
        for act in (interventions.discard, replays.replay):
            with pytest.raises(InvalidRequest, match="actor"):
                await act(session, ["j"], actor=actor, reason="r")
        with pytest.raises(InvalidRequest, match="actor"):
            await interventions.cancel(session, "j", actor=actor, reason="r")
