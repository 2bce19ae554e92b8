"""What the producers say they did: invoked, and then ok, fail, or no answer (info), as in Jepsen."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Source = Literal["client", "arq", "staged", "sql"]
Answer = Literal["ok", "fail", "info"]
Ends = Literal["done", "dead", "either"]
IN_DATABASE: frozenset[str] = frozenset({"staged", "sql"})


@dataclass(slots=True)
class Sent:
    """One job as its producer knows it."""

    job_id: str
    source: Source
    kind: str
    effects: int  # tasks that it leaves if it is done
    poison: bool
    invoked: float
    answer: Answer = "info"
    answered: float = 0.0
    deliveries: int = 1
    ends: Ends = "done"  # as it must end, whatever is broken meanwhile …
    reasons: tuple[str, ...] = ()  # … and of a dead letter, why

    @property
    def in_database(self) -> bool:
        """True if it was staged: then no loss of Redis may lose it."""
        return self.source in IN_DATABASE

    @property
    def is_guest(self) -> bool:
        """True if its handler is sent to misbehave: it fails by itself, and waits out its backoff."""
        return self.kind.startswith("chaos_guest")

    @property
    def is_outside(self) -> bool:
        """True if it calls the party before its transaction."""
        return self.kind.startswith("chaos_outside")


@dataclass(slots=True)
class History:
    """All jobs of a run, read from the producers' files, which may still grow."""

    folder: Path
    jobs: dict[str, Sent] = field(default_factory=dict)
    _read: dict[Path, int] = field(default_factory=dict)

    def update(self) -> list[Sent]:
        """Read what is new; the jobs that were touched."""
        touched: dict[str, Sent] = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            with path.open("rb") as lines:
                lines.seek(self._read.get(path, 0))
                fresh = lines.read()
            whole = fresh[: fresh.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            for line in whole.splitlines():
                job = self._take(json.loads(line))
                touched[job.job_id] = job
        return list(touched.values())

    def _take(self, said: dict[str, Any]) -> Sent:
        if said["event"] == "invoke":
            job = Sent(
                said["id"],
                said["source"],
                said["kind"],
                said["effects"],
                said["poison"],
                said["at"],
                ends=said.get("ends", "done"),
                reasons=tuple(said.get("reasons", ())),
            )
            self.jobs[job.job_id] = job
        elif said["event"] == "again":
            job = self.jobs[said["id"]]
            job.deliveries += said["times"]
        else:
            job = self.jobs[said["id"]]
            job.answer, job.answered = said["event"], said["at"]
        return job


def accepted(jobs: Iterable[Sent]) -> list[Sent]:
    """Those that were acknowledged."""
    return [job for job in jobs if job.answer == "ok"]
