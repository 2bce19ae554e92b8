"""What becomes of a failed job."""

import pytest
from sqlalchemy.exc import DBAPIError, InternalError

from db.errors import NotFound
from jobs.errors import InvalidPayload, Problem, RetryLater, Undecodable, UnknownKind
from jobs.outcome import Buried, Retry
from jobs.retry import Policy, decide

POLICY = Policy(max_attempts=3, backoff=1, longest_backoff=8)


class FakeDriverError(Exception):
    """A driver's error with a SQLSTATE."""

    def __init__(self, sqlstate: str) -> None:
        self.sqlstate = sqlstate
        super().__init__(sqlstate)


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
    ],
)
def test_what_can_never_work_is_buried_at_once(error: Exception, reason: str) -> None:
    """A job that its own content dooms is not tried again."""
    outcome = decide(error, 1, POLICY)
    assert isinstance(outcome, Buried)
    assert outcome.reason == reason


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UnknownKind("new_kind", ["create_task"]), "unknown_kind"),
        (database_error("40001"), "unavailable"),
        (database_error("40P01"), "unavailable"),
        (database_error("08006"), "unavailable"),
        (database_error("57P01"), "unavailable"),
        (TimeoutError(), "unavailable"),
        (ConnectionResetError(), "unavailable"),
        (ZeroDivisionError(), "failed"),
    ],
)
def test_what_may_work_later_is_retried_then_buried(error: Exception, reason: str) -> None:
    """The attempts are counted; the last one ends among the dead letters, with the reason."""
    assert isinstance(decide(error, 1, POLICY), Retry)
    assert isinstance(decide(error, 2, POLICY), Retry)
    last = decide(error, 3, POLICY)
    assert isinstance(last, Buried)
    assert last.reason == reason


def test_a_handler_may_ask_to_be_called_again() -> None:
    """RetryLater is taken at its word, whatever the attempt."""
    outcome = decide(RetryLater(42), 99, POLICY)
    assert isinstance(outcome, Retry)
    assert outcome.delay == 42


@pytest.mark.parametrize(("attempt", "ceiling"), [(1, 1), (2, 2), (3, 4), (4, 8), (50, 8)])
def test_backoff_doubles_up_to_its_ceiling(attempt: int, ceiling: float) -> None:
    """Full jitter: anywhere below a ceiling that doubles."""
    delays = [POLICY.delay(attempt) for _ in range(200)]
    assert all(0 <= delay <= ceiling for delay in delays)
    assert max(delays) > ceiling / 2
