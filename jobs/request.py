"""What a producer asks for: the same on Redis by the client and in a transaction by `jobs.staging`."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from secrets import token_hex

from jobs.envelope import MAX_JOB_ID, UNKNOWN_ACTOR, Envelope, check_job_id
from jobs.errors import InvalidRequest
from jobs.registry import Payload


@dataclass(frozen=True, slots=True)
class Unique:
    """For the length of the window, a job of the same kind and key is the same job, done or not."""

    key: str
    window: timedelta

    def __post_init__(self) -> None:
        if not 1 <= len(self.key) <= MAX_JOB_ID or not self.key.isprintable():
            raise InvalidRequest("unique.key", f"must have 1 to {MAX_JOB_ID} printable characters")
        if not timedelta(0) < self.window <= timedelta(days=3650):
            raise InvalidRequest("unique.window", "must be more than nothing and at most ten years")


@dataclass(frozen=True, slots=True)
class Request:
    """A job to enqueue or to stage. The same `job_id` again is the same job: it runs once.

    `ordering_key` is for staged jobs: those of one key run one after another, in the order staged.
    """

    payload: Payload
    job_id: str | None = None
    delay: timedelta = timedelta(0)
    actor: str = UNKNOWN_ACTOR
    trace_id: str | None = None
    ordering_key: str | None = None
    unique: Unique | None = None

    @property
    def envelope(self) -> Envelope:
        """As it travels."""
        return Envelope(
            kind=self.payload.kind,
            payload=self.payload.model_dump(mode="json", exclude_unset=True),
            actor=self.actor,
            trace_id=self.trace_id,
        )

    @property
    def may_exist(self) -> bool:
        """False if its id is made up now: then no job can have it."""
        return self.job_id is not None or self.unique is not None

    def checked_id(self) -> str:
        """The id asked for, or a new one.

        Raises:
            Undecodable: it is such as no worker would take.
        """
        if self.job_id is None:
            return token_hex(16)
        check_job_id(self.job_id)
        return self.job_id


def as_requests(asked: "Iterable[Request | Payload]") -> list[Request]:
    """Each with its defaults."""
    return [each if isinstance(each, Request) else Request(each) for each in asked]
