"""What must be true when everything has healed and drained, asked of the database and of Redis.

Each violation says which invariant, which job, and what was found. An empty list is the claim.
"""

import json
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis as redis_sync

from ledgerq.broker.keys import failures_key
from ledgerq.text import MAX_ERROR, MAX_TRACEBACK
from tests.chaos.history import Sent
from tests.chaos.servers import PostgreSQL

SETUP = f"""
DO $$ BEGIN
CREATE TABLE producer_row (job_id text PRIMARY KEY);
CREATE TABLE outside_row (job_id text, name text);
GRANT ALL ON producer_row, outside_row TO {PostgreSQL.ROLE};
END $$
"""

# Rows of one job were committed together if their transactions have one commit time: that holds
# for subtransactions (savepoints) too, whose xmin differs from that of the transaction.
_JOBS = """
SELECT inbox.job_id, inbox.state, inbox.attempt,
       extract(epoch FROM pg_xact_commit_timestamp(inbox.xmin))::float8 AS at
FROM ledgerq.processed_job AS inbox
"""
_EFFECTS = """
SELECT audit.job_id, audit.entity_id, task.id AS task_id,
       extract(epoch FROM pg_xact_commit_timestamp(audit.xmin))::float8 AS audit_at,
       extract(epoch FROM pg_xact_commit_timestamp(task.xmin))::float8 AS task_at
FROM ledgerq.audit_log AS audit FULL JOIN task ON task.id::text = audit.entity_id
WHERE audit.id IS NULL OR (audit.entity_type = 'task' AND audit.action = 'create')
"""
_LETTERS = "SELECT job_id, reason, error, traceback, attempts::text FROM ledgerq.dead_letter"
_PRODUCERS = """
SELECT job_id, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 AS at FROM producer_row
"""
_KEPT_KEYS = (
    b"arq:result:",
    b"ledgerq:epoch:",
    b"ledgerq:workers:",
    b"ledgerq:waits:",
    b"ledgerq:unique:",
)


BY_FAULTS = frozenset({"unavailable", "expired"})  # reasons that no handler has to give


@dataclass(slots=True)
class Found:
    """What the database holds."""

    state: dict[str, str] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)  # job → when it was committed
    effects: dict[str | None, list[Any]] = field(default_factory=dict)
    letters: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    attempts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # as the letters tell
    too_long: list[str] = field(default_factory=list)  # letters with a text that is not cut
    producers: dict[str, float] = field(default_factory=dict)
    loose: list[str] = field(default_factory=list)  # tasks without their audit entry, or vice versa
    outbox: int = 0


@dataclass(slots=True)
class Verdict:
    """The violations by invariant, and what was counted on the way."""

    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def say(self, invariant: str, what: str) -> None:
        """Note a violation."""
        self.counts[invariant] += 1
        self.violations.append(f"{invariant}: {what}")


def look(postgresql: PostgreSQL, database: str = PostgreSQL.DATABASE) -> Found:
    """Read it all: after the drain it does not move."""
    found = Found()

    def fetch(query: str) -> list[Any]:
        return postgresql.fetch(query, database=database)

    for row in fetch(_JOBS):
        found.state[row["job_id"]], found.ended[row["job_id"]] = row["state"], row["at"]
    for row in fetch(_EFFECTS):
        if row["task_id"] is None:
            found.loose.append(f"audit entry of job {row['job_id']} without its task")
        elif row["entity_id"] is None:
            found.loose.append(f"task {row['task_id']} without its audit entry")
        found.effects.setdefault(row["job_id"], []).append(row)
    for row in fetch(_LETTERS):
        job_id = row["job_id"]
        found.letters[job_id], found.errors[job_id] = row["reason"], row["error"]
        found.attempts[job_id] = json.loads(row["attempts"])
        if len(row["error"]) > MAX_ERROR or len(row["traceback"] or "") > MAX_TRACEBACK:
            found.too_long.append(job_id)
    found.producers = {row["job_id"]: row["at"] for row in fetch(_PRODUCERS)}
    found.outbox = fetch("SELECT count(*) AS n FROM ledgerq.outbox_message")[0]["n"]
    return found


def check(jobs: Iterable[Sent], found: Found, destroyed: Sequence[float] = ()) -> Verdict:
    """Compare what the producers say with what the database holds.

    `destroyed` are the times at which Redis lost data by our hand: a job that was only there, and had
    not ended, is excused from ending, from nothing else.
    """
    verdict = Verdict()
    known: set[str] = set()
    for job in jobs:
        known.add(job.job_id)
        verdict.counts["guests sent"] += job.is_guest
        _check_end(job, found, destroyed, verdict)
        _check_effects(job, found, verdict)
    _check_rows(known, found, verdict)
    return verdict


def _check_rows(known: Container[str], found: Found, verdict: Verdict) -> None:
    for job_id in found.effects:
        if job_id not in known:
            verdict.say("invented", f"rows of job {job_id}, which nobody sent")
    for loose in found.loose:
        verdict.say("partial", loose)
    for job_id in found.too_long:
        verdict.say("not cut", f"the letter of job {job_id}")
    for wrong in check_letters(found):
        verdict.say("both done and dead", wrong)
    if found.outbox:
        verdict.say("stuck", f"{found.outbox} messages are left in the outbox")


def _check_end(job: Sent, found: Found, destroyed: Sequence[float], verdict: Verdict) -> None:
    state = found.state.get(job.job_id)
    verdict.counts[f"jobs {state or 'absent'}"] += 1
    if state is None and _must_end(job, found, destroyed, verdict):
        what = f"job {job.job_id} ({job.source}, {job.kind}, {job.answer}) never ended"
        verdict.say("lost", what)
    if state and (job.answer == "fail" or (job.in_database and job.job_id not in found.producers)):
        verdict.say("invented", f"job {job.job_id} was rolled back by its producer and is {state}")
    if state == "dead" and not job.poison:
        _check_reason(job, found, verdict)
    if state == "done" and job.poison:
        verdict.say("poison", f"job {job.job_id} was invalid and is done")
    if state == "done" and job.ends == "dead":
        verdict.say("guests", f"job {job.job_id} ({job.kind}) was to be dead and is done")
    if state == "dead" and job.job_id not in found.letters:
        verdict.say("lost", f"job {job.job_id} is dead without a letter")


def _check_reason(job: Sent, found: Found, verdict: Verdict) -> None:
    """What the faults can do to any job, or else what the job itself does; `worker_lost`: see leaks.blamed."""
    reason = found.letters.get(job.job_id, "")
    sort = "outside" if job.is_outside else "guests"
    verdict.counts["buried by faults" if reason in BY_FAULTS else f"{sort} dead: {reason}"] += 1
    if reason not in BY_FAULTS | {"worker_lost", *job.reasons}:
        why = f"{reason}: {found.errors.get(job.job_id, '')[:200]}"
        verdict.say("blamed", f"job {job.job_id} ({job.kind}) is dead for {why}")


def _must_end(job: Sent, found: Found, destroyed: Sequence[float], verdict: Verdict) -> bool:
    if job.in_database:
        committed = job.job_id in found.producers
        if job.answer == "ok" and not committed:
            verdict.say("lost", f"job {job.job_id}: acknowledged, but its producer's row is gone")
        return committed
    if any(at >= job.invoked for at in destroyed):
        verdict.counts["excused"] += 1
        return False
    return job.answer == "ok"


def _check_effects(job: Sent, found: Found, verdict: Verdict) -> None:
    rows = found.effects.get(job.job_id, [])
    state = found.state.get(job.job_id)
    expected = job.effects if state == "done" else 0
    if len(rows) > expected:
        invariant = "doubled" if state == "done" else "partial"
        verdict.say(
            invariant, f"job {job.job_id} is {state} and left {len(rows)} tasks, not {expected}"
        )
    elif len(rows) < expected:
        verdict.say(
            "partial", f"job {job.job_id} is done and left {len(rows)} tasks, not {expected}"
        )
    times = {row["audit_at"] for row in rows} | {row["task_at"] for row in rows}
    if state == "done" and rows:
        times.add(found.ended[job.job_id])
    if len(times) > 1:
        verdict.say("partial", f"the rows of job {job.job_id} were not committed together: {times}")


def check_letters(found: Found) -> list[str]:
    """A job is done or dead, not both; only a payload that came under a used id may be both."""
    wrong = []
    for job_id, reason in found.letters.items():
        state = found.state.get(job_id)
        if state is None or (state == "done" and reason != "payload_mismatch"):
            wrong.append(f"job {job_id} has a letter ({reason}) and is {state}")
    return wrong


def check_leftovers(redis: redis_sync.Redis, postgresql: PostgreSQL) -> list[str]:
    """After the drain: what nobody will clean up."""
    wrong: list[str] = []
    for key in sorted(redis.scan_iter("*", count=1000)):
        ours = key.startswith((b"arq:", b"ledgerq:")) and not key.startswith(_KEPT_KEYS)
        if ours and redis.pttl(key) == -1:
            wrong.append(f"leaked: {key!r} is left on Redis")
    for pid, name in postgresql.worker_backends().items():
        owner = int(name.split(":")[-2])  # ledgerq:host:machine:pid:start
        if not Path(f"/proc/{owner}").exists():
            wrong.append(f"leaked: backend {pid} of {name}, which is dead")
    return wrong


def check_starts(logs: Path, jobs: Iterable[Sent]) -> list[str]:
    """Where nothing was broken, each delivery is one start: one log line."""
    lines = "".join(path.read_text() for path in logs.glob("*.log")).splitlines()
    events = [json.loads(line) for line in lines if line.startswith("{")]
    starts = Counter(event["job_id"] for event in events if event["event"].startswith("job."))
    return [
        f"needless: job {job.job_id} was run {starts[job.job_id]} times without a fault"
        for job in jobs
        if starts[job.job_id] > 1
    ]


def explain(redis: redis_sync.Redis, postgresql: PostgreSQL, job_id: str) -> str:
    """All that the servers know of a job that did not end: for whoever has to find out why."""
    with redis.pipeline(transaction=False) as pipe:
        pipe.zscore("arq:queue", job_id)
        pipe.get(f"arq:job:{job_id}")
        pipe.get(f"arq:in-progress:{job_id}")
        pipe.pttl(f"arq:in-progress:{job_id}")
        pipe.hget("ledgerq:running:arq:queue", job_id)
        pipe.get(f"arq:retry:{job_id}")
        pipe.hgetall(failures_key("arq:queue", job_id))
        pipe.exists(f"arq:result:{job_id}")
        pipe.time()
        known = pipe.execute(raise_on_error=False)
    names = ("score", "body", "claim", "claim_ms", "running", "tries", "trouble", "result", "now")
    message = postgresql.fetch(
        "SELECT next_dispatch_at::text, dispatches, now()::text AS now FROM ledgerq.outbox_message "
        "WHERE job_id = $1",
        job_id,
    )
    return f"{dict(zip(names, known, strict=True))} outbox={[dict(row) for row in message]}"
