"""One run: all segments of a round, one after another, and that several times."""

import asyncio
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import asyncpg
import psutil
from redis.exceptions import RedisError
from rich.console import Console

from bench.measure import Stuck
from bench.results import Results

_FIRST = 600  # jobs of a contender whose speed is not known yet
_MOST = 60_000

Work = Callable[["Pacing"], Awaitable[dict[str, float]]]
FAILURES = (
    RuntimeError,
    Stuck,
    OSError,
    asyncpg.PostgresError,
    RedisError,
    psutil.Error,
    subprocess.SubprocessError,
)


@dataclass(frozen=True, slots=True)
class Segment:
    """One contender at one workload. `work` answers with values by workload; the first is its own."""

    workload: str
    contender: str
    work: Work


@dataclass(slots=True)
class Pacing:
    """How many jobs each segment takes, so that all of them last about as long."""

    seconds: float
    rates: dict[str, float] = field(default_factory=dict)
    current: str = ""

    @property
    def jobs(self) -> int:
        """For the segment that runs now."""
        rate = self.rates.get(self.current)
        return min(_MOST, max(300, int(rate * self.seconds))) if rate else _FIRST

    def learn(self, rate: float) -> None:
        """For its next round."""
        self.rates[self.current] = rate


async def play(
    segments: Sequence[Segment],
    rounds: int,
    pace: Pacing,
    results: Results,
    console: Console,
    *,
    rehearse: bool = True,
) -> None:
    """Play all rounds; with `rehearse`, one before them that finds the pace and does not count."""
    for number in range(0 if rehearse else 1, rounds + 1):
        for segment in segments:
            pace.current = f"{segment.workload}/{segment.contender}"
            if f"{segment.workload}: {segment.contender}" in results.failures:
                continue
            measured = await _one(segment, pace, results)
            if number:
                for workload, value in measured.items():
                    results.add(workload, segment.contender, value)
            shown = measured.get(segment.workload)
            console.print(
                f"[dim]round {number or 'that finds the pace'}: {segment.workload}, "
                f"{segment.contender}: {'failed' if shown is None else f'{shown:,.1f}'}[/]"
            )


async def _one(segment: Segment, pace: Pacing, results: Results) -> dict[str, float]:
    try:
        async with asyncio.timeout(900):
            return await segment.work(pace)
    except FAILURES as error:
        results.fail(segment.workload, segment.contender, f"{type(error).__name__}: {error}"[-600:])
        return {}
