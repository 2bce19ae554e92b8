"""How many jobs a worker puts into one batch, and how many batches it runs at once: learnt from the last ones."""

from dataclasses import dataclass

_FIRST = 200  # jobs: a worker that knows nothing yet leaves the rest to others
_MIN_JOBS = 2  # a single job is no batch, and teaches nothing
_SHORT = 2.0  # seconds: a full batch that took less may be twice as large
_LONG = 4.0  # … and one that took more is halved: others wait 5 s for a lock
_MAX_AT_ONCE = 4  # some wait for the database or Redis while the next is made
_SLOW = 0.25  # seconds after which fewer are run at once: others may be faster at what waits


@dataclass(slots=True)
class BatchSize:
    """Large batches cost least for each job; slow ones keep jobs from other workers, and rows locked.

    `most` is the largest that is allowed. `running` batches are taken into account, with their `jobs`.
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
        """A batch of so many begins."""
        self.running += 1
        self.jobs += jobs

    def ended(self, jobs: int) -> None:
        """It has ended, however it did."""
        self.running -= 1
        self.jobs -= jobs

    def learn(self, jobs: int, seconds: float) -> None:
        """So many jobs took so long together."""
        step = -1 if seconds > _SLOW else 1
        self._at_once = min(max(1, self._at_once + step), _MAX_AT_ONCE)
        if seconds > _LONG:
            self._size = max(_MIN_JOBS, jobs // 2)
        elif seconds < _SHORT and jobs >= self._size:
            self._size = min(self.most, 2 * self._size)
