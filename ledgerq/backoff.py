"""The pause after a failure: up to 0.1 s, doubled after each further failure up to 5 s, with jitter."""

import random
from dataclasses import dataclass

_FIRST = 0.1
_MAX_SECONDS = 5.0


@dataclass(slots=True)
class Backoff:
    """Counts failures in a row and says how many seconds to wait after each."""

    failures: int = 0

    def next(self) -> float:
        """Count a failure; returns the seconds to wait before the next try."""
        ceiling = min(_MAX_SECONDS, _FIRST * 2 ** min(self.failures, 10))
        self.failures += 1
        return random.uniform(ceiling / 4, ceiling)  # noqa: S311 - spreads load, guards nothing

    def reset(self) -> None:
        """A try succeeded: the next failure is counted as the first."""
        self.failures = 0
