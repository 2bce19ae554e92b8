"""Jobs that the harness itself stages, each set in one transaction: every guest, and jobs that work outside."""

import json
import time
from collections.abc import Mapping
from random import Random

from ledgerq.wire.payload import Payload
from tests.chaos.effects import Effects
from tests.chaos.guests import Guest, every_guest, expected
from tests.chaos.outside_kinds import expected_outside, some_outside
from tests.chaos.world import World


def stage_every_guest(made: World, name: str = "guest") -> dict[str, Guest]:
    """The jobs by their ids. Those that may share commits do."""
    jobs = {f"{name}-{n}": each for n, each in enumerate(every_guest(made.project))}
    stage_jobs(made, jobs)
    return jobs


def stage_outside(made: World, seed: int, name: str, jobs: int, seconds: float) -> None:
    """Jobs that work outside, which become due one after another in that time: so there are always some."""
    random, url = Random(seed), made.party.url
    payloads = [some_outside(random, made.project, url) for _ in range(jobs)]
    stage_jobs(made, {f"{name}-{n}": each for n, each in enumerate(payloads)}, seconds)


def stage_jobs(made: World, jobs: Mapping[str, Payload], seconds: float = 0) -> None:
    """With what their producer would say of them. They become due one after another in so many seconds."""
    sent = [
        {
            "id": job_id, "kind": payload.kind, "fields": payload.model_dump(mode="json"),
            "after": seconds * number / len(jobs),
        }
        for number, (job_id, payload) in enumerate(jobs.items())
    ]  # fmt: skip
    _say(made, jobs, "invoke")
    made.postgresql.fetch(
        "WITH job AS (SELECT each->>'id' AS id, each->>'kind' AS kind, each->'fields' AS fields, "
        "make_interval(secs => (each->>'after')::float8) AS after "
        "FROM jsonb_array_elements($1::text::jsonb) AS each), "
        "own AS (INSERT INTO producer_row SELECT id FROM job) "
        "SELECT ledgerq.enqueue_job(kind, fields, job_id => id, run_at => now() + after) FROM job",
        json.dumps(sent),
    )
    _say(made, jobs, "ok")


def _say(made: World, jobs: Mapping[str, Payload], event: str) -> None:
    told = made.producers.folder / "harness.jsonl"
    with told.open("a") as lines:
        for job_id, payload in jobs.items():
            effects = payload.effects if isinstance(payload, Effects) else 1
            about = {
                "kind": payload.kind, "effects": effects, "poison": False, "source": "sql",
                **expected(payload), **expected_outside(payload),
            }  # fmt: skip
            line = {"event": event, "id": job_id, "at": time.time(), **about}
            lines.write(json.dumps(line) + "\n")
