"""The suite tests itself: with each seeded bug its checker must report, and without it must not."""

import asyncio
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from redis.asyncio import Redis as AsyncRedis
from rich.console import Console

from db.schema import migrate
from ledgerq.broker.claims import Ack, Broker, LeaseSettings
from ledgerq.database.settings import DatabaseConfig
from ledgerq.execution.retry import Policy
from tests.chaos import bugs, checker, leaks, outside_drill, start
from tests.chaos.bugs_around import replace
from tests.chaos.fleet import settings
from tests.chaos.history import Answer, Ends, Sent, Source
from tests.chaos.outage_drill import redis_away
from tests.chaos.poison import good_body
from tests.chaos.queues import stray_id, two_queues
from tests.chaos.servers import PostgreSQL
from tests.chaos.world import World, new_project_at, world

LEASE = 1.5  # seconds


@dataclass(frozen=True, slots=True)
class Flow:
    """A drill without a queue: a job, delivered in a process that has the bug, and then in one that has not."""

    kind: str = "chaos_effects"
    fields: dict[str, Any] = field(default_factory=dict)
    source: Source = "client"
    crash: bool = False
    again: bool = True  # it is delivered without the bug until it is acknowledged
    ends: Ends = "done"
    reasons: tuple[str, ...] = ()
    how: dict[str, Any] = field(default_factory=dict)  # see tests.chaos.one
    answer: Answer = "ok"  # what its producer was told; "fail" if it rolled back


def _failing(kind: str, fields: dict[str, Any], reason: str, **how: Any) -> Flow:
    """A job that fails whenever it is delivered, once more often than it may."""
    how["times"] = Policy().max_attempts + 1
    return Flow(kind, fields, again=False, how=how, ends="dead", reasons=(reason,))


FLOWS: dict[str, Flow] = {
    "receipt_after_effects": Flow(crash=True),
    "conflict_ignored": Flow(how={"times": 2}),
    "check_then_act": Flow(how={"times": 2, "together": True}),
    "audit_after_commit": Flow(crash=True),
    "cancellation_swallowed": Flow(fields={"pause": 5}, how={"cancel_after": 1}),
    "acknowledged_before_commit": Flow(crash=True),
    "outbox_settled_first": Flow(source="sql", crash=True),
    "fence_not_put_up": Flow(
        "chaos_guest", {"what": "ROLLBACK"}, ends="dead", reasons=("not_allowed_in_job",)
    ),
    "mute_error_for_ever": _failing("chaos_guest", {"what": "a mute error"}, "failed"),
    "second_database_believed_ours": _failing(
        "chaos_guest", {"what": "loses its second database"}, "failed"
    ),
    "silence_is_interruption": _failing("chaos_effects", {"pause": 1}, "handler_silent", idle=0.3),
    "direct_job_believed": Flow(again=False, how={"staged": "d"}, answer="fail"),
    "retried_in_one_session": Flow("chaos_conflict", {"sqlstate": "halfway", "times": 1}),
}


def run_flow(
    bug: str, flow: Flow, postgresql: PostgreSQL, database: str, project: int
) -> list[str]:
    """What the checker says after the bug, or without it if its name is empty."""
    postgresql.copy_database(database)
    spec = {
        "url": postgresql.url(database), "job_id": "the-job", "kind": flow.kind,
        "fields": {"project_id": project, "effects": 2, **flow.fields},
        "staged": flow.source == "sql", **flow.how,
    }  # fmt: skip
    if flow.source == "sql":
        _stage(postgresql, database, spec)
    acknowledged = "acknowledged" in _one(spec, bug, crash=flow.crash)
    deadline = time.monotonic() + 20
    while flow.again and not acknowledged and time.monotonic() < deadline:
        if flow.source == "sql" and not _is_staged(postgresql, database):
            break  # nothing is left that would put it on Redis again
        acknowledged = "acknowledged" in _one({**spec, "times": 1, "cancel_after": 15}, "")
    job = Sent(
        "the-job", flow.source, flow.kind, 2, poison=False, invoked=0, answer=flow.answer,
        ends=flow.ends, reasons=flow.reasons,
    )  # fmt: skip
    return checker.check([job], checker.look(postgresql, database)).violations


def run_batches(bug: str, postgresql: PostgreSQL, database: str, project: int) -> list[str]:
    """Two producers stage the same jobs in opposite orders."""
    postgresql.copy_database(database)
    said = _one({"url": postgresql.url(database), "opposite": True, "project": project}, bug)
    return ["deadlock: two batches of the same jobs"] if "deadlock" in said else []


def _one(spec: dict[str, Any], bug: str, *, crash: bool = False) -> str:
    environment = settings(0, 0, CHAOS_BUG=bug, **({"CHAOS_CRASH": "1"} if crash else {}))
    ended = start.run(("-m", "tests.chaos.one", json.dumps(spec)), environment)
    if ended.returncode > 0:
        raise RuntimeError(ended.stderr)
    return ended.stdout


def _stage(postgresql: PostgreSQL, database: str, spec: dict[str, Any]) -> None:
    postgresql.fetch("INSERT INTO producer_row VALUES ('the-job')", database=database)
    postgresql.fetch(
        "SELECT ledgerq.enqueue_job($1, $2::text::jsonb, job_id => 'the-job')",
        spec["kind"],
        json.dumps(spec["fields"]),
        database=database,
    )


def _is_staged(postgresql: PostgreSQL, database: str) -> bool:
    return bool(postgresql.fetch("SELECT FROM ledgerq.outbox_message", database=database))


def zombie_finishes(bug: str, folder: Path) -> list[str]:
    """A worker whose lease ran out says "done" for a job that another has; that one then dies."""
    with world(folder, 0, lease=LEASE, rate=1, workers=0) as made:
        job = _put_on_redis(made)
        bugs_in_here = bugs.BUGS.get(bug)
        build = Broker.__init__
        try:
            if bugs_in_here:
                bugs_in_here()
            asyncio.run(_two_owners(made))
        finally:
            replace(Broker, __init__=build)
        made.fleet.add()
        return _verdict(made, [job], 15)


async def _two_owners(made: World) -> None:
    redis = AsyncRedis(port=made.redis.port)
    lease_settings = LeaseSettings(lease=1)
    zombie, heir = (Broker(redis, "arq:queue", name, lease_settings) for name in ("zombie", "heir"))
    await zombie.claim(1, busy=0)
    await asyncio.sleep(1.2)
    await heir.claim(1, busy=0)
    await zombie.acknowledge([Ack("the-job", "done")])
    await redis.aclose()


def long_job(bug: str, folder: Path) -> list[str]:
    """A job of three leases, and nothing breaks: it is to be started once."""
    with world(folder, 0, lease=LEASE, rate=1, workers=2, CHAOS_BUG=bug) as made:
        job = _put_on_redis(made, "chaos_effects", {"pause": 3 * LEASE})
        violations = _verdict(made, [job], 15)
        return violations + checker.check_starts(folder / "logs", [job])


def relay_dies(bug: str, folder: Path) -> list[str]:
    """The worker with the relay dies between the outbox and Redis; a good one goes on."""
    with world(folder, 0, lease=LEASE, rate=1, workers=1, CHAOS_BUG=bug, CHAOS_CRASH="1") as made:
        fields = {"project_id": made.project, "effects": 2}
        _stage(made.postgresql, PostgreSQL.DATABASE, {"kind": "chaos_effects", "fields": fields})
        time.sleep(2)
        for name in ("CHAOS_BUG", "CHAOS_CRASH"):
            made.fleet.environment.pop(name, None)
        for member in made.fleet.living():
            made.fleet.kill(member)
        job = Sent("the-job", "sql", "chaos_effects", 2, poison=False, invoked=0, answer="ok")
        return _verdict(made, [job], 15)


def neighbours(bug: str, folder: Path) -> list[str]:
    """Jobs that share a transaction, and what each of them sees of the others."""
    with world(folder, 0, lease=LEASE, rate=1, workers=1, CHAOS_BUG=bug) as made:
        ids = [f"job-{number}" for number in range(5)]
        fields = json.dumps({"project_id": made.project, "effects": 2, "what": "nothing"})
        made.postgresql.fetch("INSERT INTO producer_row SELECT unnest($1::text[])", ids)
        made.postgresql.fetch(
            "SELECT ledgerq.enqueue_job('chaos_guest_quick', $1::text::jsonb, job_id => id) "
            "FROM unnest($2::text[]) AS id",
            fields,
            ids,
        )
        jobs = [
            Sent(each, "sql", "chaos_guest_quick", 2, poison=False, invoked=0, answer="ok")
            for each in ids
        ]
        return _verdict(made, jobs, 15) + leaks.told(folder / "logs")


def _put_on_redis(
    made: World, kind: str = "create_task", fields: dict[str, Any] | None = None
) -> Sent:
    body = good_body(made.project)
    if fields is not None:
        content: dict[str, Any] = {
            "f": kind,
            "a": [],
            "t": None,
            "et": 1,
            "k": {"project_id": made.project, **fields},
        }
        body = json.dumps(content).encode()
    with made.redis.client() as client:
        client.set("arq:job:the-job", body)
        client.zadd("arq:queue", {"the-job": 1})
    return Sent("the-job", "client", kind, 1, poison=False, invoked=0, answer="ok")


def _verdict(made: World, jobs: Iterable[Sent], seconds: float) -> list[str]:
    """Wait until they have ended, or long enough; then ask."""
    wanted = {job.job_id: job for job in jobs}
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = checker.look(made.postgresql)
        if wanted.keys() <= found.state.keys():
            break
        time.sleep(0.2)
    made.fleet.stop()
    return checker.check(wanted.values(), checker.look(made.postgresql)).violations


ENGINE: dict[str, Callable[[str, Path], list[str]]] = {
    "finish_without_token": zombie_finishes,
    "lease_not_renewed": long_job,
    "owners_get_no_time": redis_away,
    "message_deleted_before_push": relay_dies,
    "context_shared": neighbours,
    "body_of_other_queue_overwritten": two_queues,
    "body_of_other_queue_run": stray_id,
    **outside_drill.DRILLS,
}


def drills(
    folder: Path, names: Iterable[str], postgresql: PostgreSQL
) -> dict[str, Callable[[str], list[str]]]:
    """For each of these bugs the drill that must catch it."""
    migrate(DatabaseConfig(url=postgresql.url()))
    postgresql.execute(checker.SETUP)
    project = new_project_at(postgresql.url())
    made: dict[str, Callable[[str], list[str]]] = {}
    for name in names:
        if name in ENGINE:
            made[name] = lambda bug, name=name: ENGINE[name](
                bug, _fresh(folder / f"{name}-{bool(bug)}")
            )  # type: ignore[misc]
        else:
            work = run_batches if name == "batch_unsorted" else partial(run_flow, flow=FLOWS[name])
            made[name] = lambda bug, name=name, work=work: work(  # type: ignore[misc]
                bug, postgresql=postgresql, database=f"{name}_{bool(bug)}".lower(), project=project
            )
    return made


def _fresh(folder: Path) -> Path:
    folder.mkdir()
    return folder


def self_test(folder: Path, out: Console, names: Iterable[str] = tuple(bugs.BUGS)) -> list[str]:
    """Each bug must be caught, and the same drill without it must find nothing; what failed."""
    postgresql = PostgreSQL.create(folder / "postgresql")
    return catch(folder, out, names, postgresql)


def catch(folder: Path, out: Console, names: Iterable[str], postgresql: PostgreSQL) -> list[str]:
    """The same, in databases of this server, which is stopped at the end."""
    failed = []
    try:
        for name, drill in drills(folder, names, postgresql).items():
            caught, false_alarm = drill(name), drill("")
            word = "[green]caught[/]" if caught and not false_alarm else "[red]FAILED[/]"
            out.print(
                f"{word} {name}: {caught[0] if caught else 'nothing was reported'}", highlight=False
            )
            if not caught:
                failed.append(f"{name} was not caught")
            failed += [f"{name}: without the bug: {each}" for each in false_alarm]
    finally:
        postgresql.stop()
    return failed
