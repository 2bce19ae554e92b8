"""What must be true of work outside of the database: the party's calls, compared with the steps that are recorded.

Two deliveries of a job may overlap, when a lease was lost. So a step may be called after it was recorded, by a run that
read the records before. What must not be is told by order: a later call of a run shows that the steps before it were
recorded by then, and a run that was decoded after that has to know them.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.checker import Found, Verdict
from tests.chaos.history import Sent
from tests.chaos.outside_kinds import CALLS, EFFECTS, PAGES, RECORDS, ChaosOutsideOnce
from tests.chaos.party import Call
from tests.chaos.servers import PostgreSQL

_STEPS = """
SELECT job_id, name, state::text, result::text,
       extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 AS at
FROM ledgerq.job_step
"""
_ENTRIES = """
SELECT job_id, after->>'step' AS name, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 AS at
FROM ledgerq.audit_log
WHERE entity_type = 'job' AND action = 'step' AND after->>'recorded' IS NULL
"""
_ROWS = """
SELECT job_id, name, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 AS at FROM outside_row
"""
_ORDER = {step: number for number, step in enumerate(CALLS)}


@dataclass(slots=True)
class Traces:
    """What one job has left outside of its own transaction."""

    steps: dict[str, Any] = field(default_factory=dict)
    entries: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    rows: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    calls: list[Call] = field(default_factory=list)


def look_outside(
    postgresql: PostgreSQL, calls: Iterable[Call], database: str = PostgreSQL.DATABASE
) -> dict[str, Traces]:
    """The traces of each job."""
    found: dict[str, Traces] = defaultdict(Traces)

    def fetch(query: str) -> list[Any]:
        return postgresql.fetch(query, database=database)

    for row in fetch(_STEPS):
        found[row["job_id"]].steps[row["name"]] = row
    for row in fetch(_ENTRIES):
        found[row["job_id"]].entries[row["name"]].append(row["at"])
    for row in fetch(_ROWS):
        found[row["job_id"]].rows[row["name"]].append(row["at"])
    for call in calls:
        found[call.job_id].calls.append(call)
    return found


def check_outside(
    jobs: Sequence[Sent], found: Found, traces: dict[str, Traces], verdict: Verdict
) -> None:
    """Compare them; `check` has asked whether the job has ended."""
    ours = {job.job_id: job for job in jobs if job.is_outside}
    for job_id in traces.keys() - {job.job_id for job in jobs}:
        if traces[job_id].calls or traces[job_id].rows:
            verdict.say("invented", f"work outside for job {job_id}, which nobody sent")
    for job_id, job in ours.items():
        left, state = traces.get(job_id, Traces()), found.state.get(job_id)
        _count(left, state, found.letters.get(job_id), verdict)
        wrong = [
            *_effects(job, left, state), *_records(left, state), *_called_again(left.calls),
            *_rows(left, state), *_reason(job_id, left, found),
        ]  # fmt: skip
        for what in wrong:
            verdict.say("outside", f"job {job_id} ({job.kind}), which is {state}: {what}")


def _count(left: Traces, state: str | None, reason: str | None, verdict: Verdict) -> None:
    counts = verdict.counts
    counts["outside: jobs"] += 1
    counts["outside: jobs done"] += state == "done"
    counts["outside: calls"] += len(left.calls)
    counts["outside: effects"] += sum(call.is_effect for call in left.calls)
    counts["outside: steps recorded"] += sum(map(len, left.entries.values()))
    counts["outside: calls made again"] += len(left.calls) - len({each.step for each in left.calls})
    counts["outside: in doubt"] += reason == "in_doubt"
    counts["outside: answers lost"] += sum(call.answer in {"error", "cut"} for call in left.calls)


def _effects(job: Sent, left: Traces, state: str | None) -> Iterable[str]:
    """Each effect once if the job is done, at most once if not; without keys one call at most, too."""
    effects = Counter(call.step for call in left.calls if call.is_effect)
    for step in CALLS:
        if effects[step] > 1:
            yield f"{step} was performed {effects[step]} times"
    for step in EFFECTS:
        if state == "done" and effects[step] < 1:
            yield f"{step} was not performed"
    if job.kind == ChaosOutsideOnce.kind:
        times = sum(call.step == "mail" for call in left.calls)
        if times > 1:
            yield f"mail was called {times} times, and at most once is allowed"


def _records(left: Traces, state: str | None) -> Iterable[str]:
    """A job that is done has recorded each step; what a step answered is what the party answered to one of its calls."""
    states = {name: step["state"] for name, step in left.steps.items()}
    if state == "done" and states != RECORDS:
        yield f"its steps are recorded as {states}"
    calls = {call.serial: call for call in left.calls}
    for name, step in left.steps.items():
        entries = len(left.entries[name])
        times = int(step["result"]) if name == "pages" else int(step["state"] == "done")
        if entries != times:
            yield f"step {name} was recorded {entries} times, not {times}"
        if name in EFFECTS and step["state"] == "done":
            call = calls.get(json.loads(step["result"])["serial"])
            if call is None or call.step != name or call.answer != "ok":
                yield f"step {name} has recorded {step['result']}, which was not answered to it"
    for name in left.entries.keys() - left.steps.keys():
        if left.entries[name]:
            yield f"step {name} has an entry in the audit log and no record"


def _called_again(calls: Sequence[Call]) -> Iterable[str]:
    """No run calls what was recorded before it was decoded: see above."""
    recorded: dict[str, float] = {}
    for call in calls:
        for step in CALLS[: _ORDER[call.step]]:
            recorded[step] = min(recorded.get(step, call.arrived), call.arrived)
    for call in calls:
        if call.decoded > recorded.get(call.step, call.decoded):
            late = call.decoded - recorded[call.step]
            yield f"{call.step} was called by a run that began {late:.3f} s after it was recorded"


def _rows(left: Traces, state: str | None) -> Iterable[str]:
    """The rows of a step and of each page are there once, and were committed with the record."""
    at = int(left.steps["pages"]["result"]) if "pages" in left.steps else 0
    wanted = Counter({f"page-{number}": 1 for number in range(at)})
    wanted.update({"row": 1} if "row" in left.steps else {})
    there = Counter({name: len(times) for name, times in left.rows.items()})
    if there != wanted or (state == "done" and at != PAGES):
        yield f"it left the rows {dict(there)}, not {dict(wanted)}"
    for step in ("row", "pages"):
        entries = sorted(left.entries[step])
        rows = sorted(
            at for name in left.rows for at in left.rows[name] if name.startswith(step[:4])
        )
        last = left.steps[step]["at"] if step in left.steps else None
        if entries != rows or (rows and rows[-1] != last):
            yield f"rows of {step} were committed at {rows}, entries at {entries}, the step at {last}"


def _reason(job_id: str, left: Traces, found: Found) -> Iterable[str]:
    """In doubt is what has begun, and failed is what the party did not answer well."""
    reason = found.letters.get(job_id)
    begun = "mail" in left.steps and left.steps["mail"]["state"] == "begun"
    if reason == "in_doubt" and not begun:
        yield "it is in doubt, and no step has begun"
    if reason == "failed" and all(call.answer == "ok" for call in left.calls):
        yield f"the party answered all calls: {found.errors.get(job_id, '')[:200]}"
