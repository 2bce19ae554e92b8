"""A claimed job as it was read, and how arq's log speaks of it."""

from dataclasses import dataclass
from typing import Any

from arq.utils import timestamp_ms, truncate

from jobs.envelope import Envelope
from worker.broker import Claim

LATE = 1.2  # seconds after its time that arq's log calls delayed


@dataclass(frozen=True, slots=True)
class Call:
    """A claimed job as it was read: which function it asks for, and what a result says of it."""

    claim: Claim
    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    attempt: int
    enqueued_ms: int
    started_ms: int

    @property
    def name(self) -> str:
        """The job in arq's log lines."""
        return f"{self.claim.job_id}:{self.function}"

    @property
    def waited(self) -> float:
        """Seconds from enqueue to start."""
        return max(0, self.started_ms - self.enqueued_ms) / 1000

    @property
    def lasted(self) -> float:
        """Seconds from start to now."""
        return (timestamp_ms() - self.started_ms) / 1000

    @property
    def remarks(self) -> str:
        """What arq's log adds to a start that is not the first, or late."""
        again = f" try={self.attempt}" if self.attempt > 1 else ""
        late = (self.started_ms - self.claim.score) / 1000
        return again + (f" delayed={late:0.2f}s" if late > LATE else "")


def called(claim: Claim, envelope: Envelope) -> Call:
    """A job of ours, from what was read of it."""
    return Call(
        claim,
        envelope.wire_name,
        (),
        dict(envelope.payload),
        claim.attempt,
        envelope.enqueued_ms,
        timestamp_ms(),
    )


def unread(claim: Claim) -> Call:
    """A job of which nothing but its claim is known."""
    now = timestamp_ms()
    return Call(claim, "<unknown>", (), {}, claim.attempt, now, now)


def shown_in_log(result: Any) -> str:
    """A result, cut to length."""
    try:
        return truncate(repr(result))
    except Exception as error:  # noqa: BLE001 - it is somebody else's repr, and the job is done
        return f"<repr raised {type(error).__name__}>"


def extra_of(error: BaseException) -> Any:
    """What arq's users hang on their exceptions for the log."""
    extra = getattr(error, "extra", None)
    try:
        return extra() if callable(extra) else extra
    except Exception as raised:  # noqa: BLE001 - as above
        return repr(type(raised))
