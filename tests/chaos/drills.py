"""The fixed drills: restarts in a row, an emptied Redis, kill -9 at the default lease, and the poison list."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from ledgerq.broker.keys import failures_key
from tests.chaos import checker, faults, server_faults
from tests.chaos.guests import expected
from tests.chaos.poison import BODIES, KEYS, good_body, is_good
from tests.chaos.report import Bar, Report, percentile
from tests.chaos.run import Phase, finish, run_phase
from tests.chaos.staged_jobs import stage_every_guest
from tests.chaos.world import World, world

LEASE = 15.0  # the default
KILL_BAR = 20.0  # seconds
FLUSH_BAR = 5.0

Drill = Callable[[int, Path, Report, Console], None]


def restarts(
    seed: int, folder: Path, report: Report, out: Console, *, times: int = 50, lease: float = LEASE
) -> None:
    """Redis, then PostgreSQL, restarted again and again under the same worker processes."""
    folder.mkdir()
    with world(folder, seed, lease=lease, rate=30) as made:
        before = made.fleet.pids()
        made.producers.start()
        time.sleep(1.5)
        for restart in (server_faults.restart_redis, server_faults.restart_postgresql):
            for _ in range(times):
                restart(made)
                made.producers.ensure()
                time.sleep(made.random.uniform(0.1, 0.5))
        made.producers.kill()
        survived = sum(pid in before for pid in made.fleet.pids())
        report.bars.append(
            Bar(f"workers that lived through {times} + {times} restarts", survived, 3, higher=True)
        )
        finish(made, report, "restarts", 90, out)


def flushes(seed: int, folder: Path, report: Report, out: Console, *, jobs: int = 3_000) -> None:
    """FLUSHALL with a backlog of staged jobs: how soon is each on Redis again, or done."""
    folder.mkdir()
    with world(folder, seed, lease=LEASE, rate=1) as made:
        _stage(made, jobs)
        time.sleep(2)
        took = []
        for _ in range(3):
            server_faults.flush_redis(made)
            took.append(_until_all_are_back(made))
            time.sleep(1)
        report.bars.append(
            Bar("seconds from FLUSHALL until all staged jobs are back", max(took), FLUSH_BAR)
        )
        finish(made, report, "flushes", 90, out)
        _require_all_done(made, jobs, report)


def _stage(made: World, jobs: int, pause: float = 0.2) -> None:
    """By the SQL function, in one transaction with the producer's own rows."""
    made.postgresql.fetch(
        "WITH job AS (SELECT 'f-' || n AS id FROM generate_series(1, $1::int) AS n), "
        "own AS (INSERT INTO producer_row SELECT id FROM job) "
        "SELECT ledgerq.enqueue_job('chaos_effects', "
        "jsonb_build_object('project_id', $2::int, 'pause', $3::float8), job_id => id) FROM job",
        jobs,
        made.project,
        pause,
    )
    lines = [
        f'{{"event": "{event}", "id": "f-{number}", "source": "sql", "kind": "chaos_effects", '
        f'"effects": 1, "poison": false, "at": {time.time()}}}\n'
        for number in range(1, jobs + 1)
        for event in ("invoke", "ok")
    ]
    (made.producers.folder / "staged.jsonl").write_text("".join(lines))


def _until_all_are_back(made: World) -> float:
    started = time.monotonic()
    while time.monotonic() - started < 60:
        rows = made.postgresql.fetch("SELECT job_id FROM ledgerq.outbox_message")
        with made.redis.client() as client:
            queued: Any = client.zrange("arq:queue", 0, -1)
        there = {job_id.decode() for job_id in queued}
        if all(row["job_id"] in there for row in rows):
            break
        if all(
            row["job_id"] in there
            for row in made.postgresql.fetch("SELECT job_id FROM ledgerq.outbox_message")
        ):
            break  # those missing had ended between the two looks
    return time.monotonic() - started


def _require_all_done(made: World, jobs: int, report: Report) -> None:
    found = checker.look(made.postgresql)
    done = sum(state == "done" for state in found.state.values())
    if done != jobs:
        report.violations.append(f"flushes: lost: {jobs - done} of {jobs} staged jobs are not done")


def kills(seed: int, folder: Path, report: Report, out: Console, *, seconds: float = 90) -> None:
    """kill -9 at the default lease: how long until the victim's jobs have ended elsewhere.

    Fewer jobs come than in other phases, so that a slow machine keeps up with them: a job that waits its turn behind a
    backlog says nothing of the takeover. Guests do not count: they fail by themselves, and how long they last is their backoff's affair. Jobs that wait outside
    do not count either: a party that answers badly makes them fail, and they are tried again later. Some of the jobs that count
    take up to two seconds: else a kill would hardly ever meet one.
    """
    own = Report(seed)
    phase = Phase(
        "kill -9 at the default lease",
        seconds,
        {faults.kill_worker: 1},
        pause=5.0,
        rate=20,
        outside=1.5,
        lease=LEASE,
        longest_pause=0.5,
    )
    run_phase(phase, seed, folder, own, out)
    slowest = percentile(own.rows["kill_worker"].good, 0.99) if "kill_worker" in own.rows else None
    report.merge(own)
    name = "p99 seconds until a killed worker's jobs, without guests and those that wait outside, have ended"
    if slowest is None:
        report.violations.append(f"{phase.name}: no kill met a job that counts: {name}: unknown")
    else:
        report.bars.append(Bar(name, slowest, KILL_BAR))


def suspect(seed: int, folder: Path, report: Report, out: Console) -> None:
    """A job that has lost two workers must run alone: beside a backlog it must not starve.

    It waits its turn as any job does, so what counts is how much later it ends than its neighbour.
    """
    folder.mkdir()
    with world(folder, seed, lease=LEASE, rate=1) as made:
        _stage(made, 2_000, pause=0.5)
        time.sleep(3)
        with made.redis.client() as client:
            client.hset(failures_key("arq:queue", "suspect"), "crashes", "2")
        made.postgresql.execute("INSERT INTO producer_row VALUES ('suspect')")
        made.postgresql.execute("INSERT INTO producer_row VALUES ('neighbour')")
        for job_id in ("suspect", "neighbour"):
            _enqueue(made, "create_task", job_id, {"title": "x", "project_id": made.project})
        _wait_until_ended(made, "neighbour", 3 * KILL_BAR)
        started = time.monotonic()
        _wait_until_ended(made, "suspect", 2 * KILL_BAR)
        took = time.monotonic() - started
        report.bars.append(
            Bar("seconds that a job that must run alone ends after its neighbour", took, KILL_BAR)
        )
        for job_id in ("suspect", "neighbour"):
            _claim_as_sent(made, job_id)
        finish(made, report, "suspect", 90, out)


def _wait_until_ended(made: World, job_id: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not _ended(made, job_id):
        time.sleep(0.1)


def _ended(made: World, job_id: str) -> bool:
    return bool(
        made.postgresql.fetch("SELECT FROM ledgerq.processed_job WHERE job_id = $1", job_id)
    )


def _claim_as_sent(made: World, job_id: str) -> None:
    """Into the history, for a job that the drill itself enqueued."""
    line = {"id": job_id, "source": "sql", "kind": "create_task", "effects": 1, "poison": False}
    said = [{"event": event, "at": time.time(), **line} for event in ("invoke", "ok")]
    text = "".join(json.dumps(each) + "\n" for each in said)
    (made.producers.folder / f"{job_id}.jsonl").write_text(text)


def guests(seed: int, folder: Path, report: Report, out: Console) -> None:
    """Every guest twice, beside good neighbours, and nothing else breaks: each job ends as it must."""
    folder.mkdir()
    with world(folder, seed, lease=LEASE, rate=1) as made:
        before = made.fleet.pids()
        jobs = stage_every_guest(made) | stage_every_guest(made, "again")
        made.drain(90)
        living = sum(pid in before for pid in made.fleet.pids())
        report.bars.append(Bar("workers that lived through the guests", living, 3, higher=True))
        finish(made, report, "guests", 5, out)
        state = checker.look(made.postgresql).state
        report.violations += [
            f"guests: {guest.kind} that does {guest.what!r} is {state.get(job_id)}"
            for job_id, guest in jobs.items()
            if expected(guest)["ends"] not in {"either", state.get(job_id)}
        ]


def poison(seed: int, folder: Path, report: Report, out: Console, *, lease: float = 3.0) -> None:
    """Everything that ever killed a worker, once each: no worker dies, each leaves one dead letter."""
    folder.mkdir()
    (folder / "deaths").mkdir()
    with world(folder, seed, lease=lease, rate=1, LEDGERQ_MAX_ATTEMPTS="1") as made:
        before = made.fleet.pids()
        expected = _poison(made)
        deadline = time.monotonic() + 45
        while _letters(made) < expected and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(0.5)
        found = _letters(made)
        report.bars.append(
            Bar(
                "workers that lived through the poison",
                sum(pid in before for pid in made.fleet.pids()),
                3,
                higher=True,
            )
        )
        if found != expected:
            report.violations.append(
                f"poison: {found} dead letters for {expected} poisons: {_reasons(made)}"
            )
        _killers(made, folder / "deaths", report)
        finish_without_history(made, report, out)


def _poison(made: World) -> int:
    """Put all of it on Redis; how many dead letters it must leave."""
    with made.redis.client() as client:
        now = time.time() * 1000
        for number, body in enumerate(BODIES.values()):
            client.set(f"arq:job:bad-{number}", body)
            client.zadd("arq:queue", {f"bad-{number}": now})
        for job_id in KEYS:
            client.set(b"arq:job:" + job_id, good_body(made.project))
            client.zadd("arq:queue", {job_id: now})
        client.zadd("arq:queue", {"no-body": now})
        client.hset("arq:job:hash-body", "a", "b")
        client.zadd("arq:queue", {"hash-body": now})
        client.set("arq:job:odd-retry", good_body(made.project))
        client.set("arq:retry:odd-retry", "many")
        client.zadd("arq:queue", {"odd-retry": now})
        client.set("arq:job:early", good_body(made.project))
        client.execute_command("ZADD", "arq:queue", "-inf", "early")
    return len(BODIES) + sum(not is_good(job_id) for job_id in KEYS) + 2


def _letters(made: World) -> int:
    rows = made.postgresql.fetch("SELECT count(*) AS n FROM ledgerq.dead_letter")
    return int(rows[0]["n"])


def _reasons(made: World) -> dict[str, str]:
    rows = made.postgresql.fetch("SELECT job_id, reason FROM ledgerq.dead_letter ORDER BY id")
    return {row["job_id"]: row["reason"] for row in rows}


def _killers(made: World, deaths: Path, report: Report) -> None:
    """A job that always kills its worker dies alone; its neighbours, and one that kills once, do not."""
    fields = {"project_id": made.project, "folder": str(deaths)}
    _enqueue(made, "chaos_kill", "killer", fields)
    for number in range(20):
        slow = {"project_id": made.project, "pause": 0.3, "effects": 3}
        _enqueue(made, "chaos_effects", f"neighbour-{number}", slow)
    _until_outbox_is_empty(made)
    _enqueue(made, "chaos_kill", "once", {**fields, "times": 1})
    _until_outbox_is_empty(made)
    state = checker.look(made.postgresql).state
    wanted = {f"neighbour-{number}": "done" for number in range(20)}
    wanted |= {"killer": "dead", "once": "done", "early": "done", "odd-retry": "done"}
    wrong = {job_id: state.get(job_id) for job_id in wanted if state.get(job_id) != wanted[job_id]}
    if wrong:
        report.violations.append(f"poison: beside a job that kills its workers: {wrong}")
    report.notes["workers killed by one job"] = len(list(deaths.glob("killer.*")))


def _enqueue(made: World, kind: str, job_id: str, fields: dict[str, Any]) -> None:
    made.postgresql.fetch(
        "SELECT ledgerq.enqueue_job($1, $2::text::jsonb, job_id => $3)",
        kind,
        json.dumps(fields),
        job_id,
    )


def _until_outbox_is_empty(made: World, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and made.postgresql.fetch(
        "SELECT FROM ledgerq.outbox_message"
    ):
        time.sleep(0.2)


def finish_without_history(made: World, report: Report, out: Console) -> None:
    """What the database holds must fit together, whoever sent the jobs."""
    made.fleet.stop()
    found = checker.look(made.postgresql)
    wrong = checker.check_letters(found) + found.loose + made.fleet.unexpected
    report.violations += [f"poison: {each}" for each in wrong]
    out.print(
        f"poison: {len(found.letters)} dead letters, {len(wrong)} violations", highlight=False
    )


DRILLS: tuple[Drill, ...] = (restarts, flushes, kills, suspect, guests, poison)
