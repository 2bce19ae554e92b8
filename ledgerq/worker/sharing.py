"""How many jobs are claimed for batches, how many of a kind share one transaction, and which kinds might share: learnt."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import structlog

from ledgerq.broker.claims import Claim

log = structlog.stdlib.get_logger("ledgerq.jobs")

_FIRST = 200  # jobs in the first batch: until a batch was measured, the rest is left to others
_MIN_JOBS = 2  # jobs in the smallest batch: one job shares nothing
_SHORT = 2.0  # seconds: after a full batch that took less, the next may be twice as large
_LONG = 4.0  # seconds: after a batch that took more, the size is halved: others wait 5 s for a lock
_AT_ONCE = 2  # batches of less than a second: one waits for the database while the other runs …
_MAX_AT_ONCE = 4  # … or more, if they are quick
_SLOW = 0.25  # seconds: after a slower batch fewer run at once: other workers may be faster
_LOCKED = 1.0  # seconds for which a transaction may hold locks; a batch that takes more runs alone


@dataclass(slots=True)
class BatchSize:
    """Adapts how large batches are, and how many run at once, to how long they take.

    Large batches cost least for each job; slow batches keep jobs from other workers, and rows locked. `most` is the
    largest size that is allowed. `running` is the number of batches that run now, `jobs` the number of their jobs.
    """

    most: int
    running: int = 0
    jobs: int = 0
    _size: int = _FIRST
    _at_once: int = 1

    @property
    def next_size(self) -> int:
        """How many jobs the next batch may have; 0 if enough are running."""
        return min(self._size, self.most) if self.running < self._at_once else 0

    def began(self, jobs: int) -> None:
        """Note that a batch of so many jobs begins."""
        self.running += 1
        self.jobs += jobs

    def ended(self, jobs: int) -> None:
        """Note that a batch of so many jobs has ended, with success or without."""
        self.running -= 1
        self.jobs -= jobs

    def learn(self, jobs: int, seconds: float) -> None:
        """Adapt the size, and how many run at once, to a batch of `jobs` that took `seconds`."""
        step = -1 if seconds > _SLOW else 1
        least = 1 if seconds > _LOCKED else _AT_ONCE
        self._at_once = min(max(least, self._at_once + step), _MAX_AT_ONCE)
        if seconds > _LONG:
            self._size = max(_MIN_JOBS, jobs // 2)
        elif seconds < _SHORT and jobs >= self._size:
            self._size = min(self.most, 2 * self._size)


_A_FEW = 8  # jobs of a kind in its first shared transaction: nobody knows yet what they take
_FASTER = 4  # after a quick transaction that was full, the next is so many times as large


@dataclass(slots=True)
class KindSizes:
    """Adapts how many jobs of a kind share one transaction, so that slow handlers don't hold locks together for long."""

    _sizes: dict[str, int] = field(default_factory=dict)

    def groups(self, kind: str, claims: Sequence[Claim]) -> Iterator[Sequence[Claim]]:
        """Cut the jobs of one kind into groups, each for one transaction. `learn` after each of them sizes the next."""
        at = 0
        while at < len(claims):
            size = self._sizes.get(kind, _A_FEW)
            yield claims[at : at + size]
            at += size

    def learn(self, kind: str, jobs: int, seconds: float) -> None:
        """Adapt the size to a transaction of `jobs` that took `seconds`."""
        size = self._sizes.get(kind, _A_FEW)
        if seconds > _LOCKED:
            size = max(1, int(jobs * _LOCKED / 2 / seconds))
        elif seconds < _LOCKED / _FASTER and jobs >= size:
            size *= _FASTER
        self._sizes[kind] = size


WINDOW = 60.0  # seconds in which jobs are counted
MANY = 1_000  # jobs in that time
QUICK = 0.05  # seconds of one job, on average


@dataclass(slots=True)
class SharingAdvice:
    """Logs once for a kind that its jobs could share commits: many in a minute had one each, and they were quick."""

    _since: float = field(default_factory=time.monotonic)
    _seen: dict[str, tuple[int, float]] = field(default_factory=dict)  # kind → jobs, their seconds
    _told: set[str] = field(default_factory=set)

    def completed(self, kind: str, seconds: float) -> None:
        """Note a completed job that had its own commit, and took so many seconds."""
        now = time.monotonic()
        if now - self._since > WINDOW:
            self._seen.clear()
            self._since = now
        jobs, lasted = self._seen.get(kind, (0, 0.0))
        self._seen[kind] = jobs, lasted = jobs + 1, lasted + seconds
        if jobs < MANY or lasted > jobs * QUICK or kind in self._told:
            return
        self._told.add(kind)
        log.info(
            "kind.could_share_commits",
            kind=kind,
            jobs=jobs,
            seconds=round(now - self._since, 1),
            cure="if its handler does nothing but use the database: @job(shares_commit=True) lets its jobs share commits",
        )
