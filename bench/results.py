"""What was measured: for each workload and contender one value a round, and what can be said of it."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Results:
    """Workload → contender → the values of its rounds. A round that failed has none."""

    values: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def add(self, workload: str, contender: str, value: float | None) -> None:
        """The value of one more round."""
        self.values.setdefault(workload, {}).setdefault(contender, []).append(value)

    def fail(self, workload: str, contender: str, why: str) -> None:
        """A round without a value, and the first reason for it."""
        self.failures.setdefault(f"{workload}: {contender}", why)

    def of(self, workload: str, contender: str) -> list[float]:
        """The values that there are."""
        found = self.values.get(workload, {}).get(contender, [])
        return [value for value in found if value is not None]

    def median(self, workload: str, contender: str) -> float | None:
        """The middle one."""
        values = self.of(workload, contender)
        return statistics.median(values) if values else None

    def spread(self, workload: str, contender: str) -> tuple[float, float] | None:
        """The least and the most."""
        values = self.of(workload, contender)
        return (min(values), max(values)) if values else None

    def ratios(self, workload: str, one: str, other: str, *, of: str = "") -> list[float]:
        """How many times the other's value one has, round by round: both met the same machine."""
        mine = self.values.get(workload, {}).get(one, [])
        theirs = self.values.get(of or workload, {}).get(other, [])
        return [a / b for a, b in zip(mine, theirs, strict=False) if a is not None and b]

    def ratio(self, workload: str, one: str, other: str, *, of: str = "") -> float | None:
        """The middle of these ratios."""
        ratios = self.ratios(workload, one, other, of=of)
        return statistics.median(ratios) if ratios else None

    def best(self, workload: str, among: list[str]) -> str | None:
        """Who has the best median."""
        known = [(value, name) for name in among if (value := self.median(workload, name))]
        choose = min if less_is_better(workload) else max
        return choose(known)[1] if known else None

    def rows(self, workload: str) -> Iterator[tuple[str, float, tuple[float, float]]]:
        """Each contender with a value: its median and its spread, the best first."""
        found = []
        for name in self.values.get(workload, {}):
            median, spread = self.median(workload, name), self.spread(workload, name)
            if median is not None and spread is not None:
                found.append((name, median, spread))
        yield from sorted(found, key=lambda row: row[1], reverse=not less_is_better(workload))

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "values": self.values,
            "medians": {
                workload: {name: self.median(workload, name) for name in contenders}
                for workload, contenders in self.values.items()
            },
            "failures": self.failures,
            "notes": self.notes,
        }


def less_is_better(workload: str) -> bool:
    """A time or a cost, not a speed."""
    return workload.startswith(("latency", "idle", "recovery", "waiting"))


def shown(value: float) -> str:
    """As people read it."""
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"
