"""What becomes of a failed job."""

import pytest
from sqlalchemy.exc import DBAPIError, InternalError

from db.errors import NotFound
from ledgerq.errors import (
    InvalidPayload,
    Permanent,
    Problem,
    RetryLater,
    Snooze,
    Undecodable,
    UnknownKind,
    WorkerLost,
)
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.outcome import Buried, Retry
from ledgerq.execution.retry import Policy, decide

POLICY = Policy(max_attempts=3, backoff=1, longest_backoff=8)


class FakeDriverError(Exception):
    """A driver's error with a SQLSTATE."""

    def __init__(self, sqlstate: str) -> None:
        self.sqlstate = sqlstate
        super().__init__(sqlstate)


def arrival(attempt: int = 1, interruptions: int = 0) -> Delivery:
    return Delivery("job-1", attempt, b"", interruptions=interruptions)


def database_error(sqlstate: str) -> DBAPIError:
    return InternalError("SELECT 1", {}, FakeDriverError(sqlstate))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Undecodable("body", "is not JSON"), "undecodable"),
        (InvalidPayload([Problem("title", "too long")]), "invalid_payload"),
        (NotFound("task", 7), "refused"),
        (database_error("22021"), "refused"),
        (database_error("23514"), "refused"),
        (Permanent("the customer is gone"), "permanent"),
        (WorkerLost(3), "worker_lost"),
    ],
)
def test_what_can_never_work_is_buried_at_once(error: Exception, reason: str) -> None:
    """A job that its own content dooms is not tried again."""
    outcome = decide(error, arrival(), POLICY)
    assert isinstance(outcome, Buried)
    assert outcome.reason == reason


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (database_error("40001"), "unavailable"),
        (database_error("40P01"), "unavailable"),
        (database_error("57014"), "unavailable"),
        (TimeoutError(), "unavailable"),
        (ConnectionResetError(), "unavailable"),
        (ZeroDivisionError(), "failed"),
    ],
)
def test_what_may_work_later_is_retried_then_buried(error: Exception, reason: str) -> None:
    """The attempts are counted; the last one ends among the dead letters, with the reason."""
    for attempt in (1, 2):
        again = decide(error, arrival(attempt), POLICY)
        assert isinstance(again, Retry)
        assert again.counts_as_attempt
    last = decide(error, arrival(3), POLICY)
    assert isinstance(last, Buried)
    assert last.reason == reason


@pytest.mark.parametrize("sqlstate", ["08006", "57P01", "57P02", "57P03", "53300", "25006"])
def test_a_broken_connection_spends_no_attempt_but_is_counted(sqlstate: str) -> None:
    """Whatever the attempt, the job comes back, and for so long that no outage buries it."""
    error = database_error(sqlstate)
    again = decide(error, arrival(99), POLICY)
    assert isinstance(again, Retry)
    assert not again.counts_as_attempt
    last = decide(error, arrival(1, interruptions=POLICY.max_interruptions), POLICY)
    assert isinstance(last, Buried)
    assert last.reason == "unavailable"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UnknownKind("new_kind", ["create_task"]), "unknown_kind"),
        (database_error("42P01"), "schema_skew"),
        (database_error("42703"), "schema_skew"),
    ],
)
def test_a_deploy_under_way_is_given_more_time(error: Exception, reason: str) -> None:
    """Four times the attempts for what older code or an older schema does not know."""
    assert isinstance(decide(error, arrival(11), POLICY), Retry)
    last = decide(error, arrival(12), POLICY)
    assert isinstance(last, Buried)
    assert last.reason == reason


def test_a_handler_may_ask_to_be_called_again() -> None:
    """RetryLater spends an attempt, so it ends; Snooze spends none, so it may go on for ever."""
    later = decide(RetryLater(42), arrival(2), POLICY)
    assert isinstance(later, Retry)
    assert (later.delay, later.counts_as_attempt) == (42, True)
    assert isinstance(decide(RetryLater(42), arrival(3), POLICY), Buried)
    snoozed = decide(Snooze(42), arrival(99), POLICY)
    assert isinstance(snoozed, Retry)
    assert (snoozed.delay, snoozed.counts_as_attempt) == (42, False)


@pytest.mark.parametrize(
    ("delay", "taken"), [(-1.0, 0.0), (float("nan"), 0.0), (1e300, 315360000.0)]
)
def test_a_delay_is_such_as_a_queue_can_hold(delay: float, taken: float) -> None:
    """Negative, NaN and endless delays are brought into range."""
    assert Snooze(delay).delay == RetryLater(delay).delay == taken


@pytest.mark.parametrize(("attempt", "ceiling"), [(1, 1), (2, 2), (3, 4), (4, 8), (50, 8)])
def test_backoff_doubles_up_to_its_ceiling(attempt: int, ceiling: float) -> None:
    """Full jitter: anywhere below a ceiling that doubles."""
    delays = [POLICY.delay(attempt) for _ in range(200)]
    assert all(0 <= delay <= ceiling for delay in delays)
    assert max(delays) > ceiling / 2
