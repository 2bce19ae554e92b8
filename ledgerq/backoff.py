"""How long to wait after one failure, and after the next: 0.1 s, doubled up to 5 s, with full jitter."""

import random
from dataclasses import dataclass

_FIRST = 0.1
_MAX_SECONDS = 5.0


@dataclass(slots=True)
class Backoff:
    """Counts failures in a row."""

    failures: int = 0

    def next(self) -> float:
        """Seconds to wait after another failure."""
        ceiling = min(_MAX_SECONDS, _FIRST * 2 ** min(self.failures, 10))
        self.failures += 1
        return random.uniform(ceiling / 4, ceiling)  # noqa: S311 - spreads load, guards nothing

    def reset(self) -> None:
        """It worked."""
        self.failures = 0
