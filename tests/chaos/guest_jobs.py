"""Every guest at once, staged in one transaction: those that may share commits do."""

import json
import time

from tests.chaos.guests import Guest, every_guest, expected
from tests.chaos.world import World


def stage_every_guest(made: World, name: str = "guest") -> dict[str, Guest]:
    """With what its producer would say of it; the jobs by their ids."""
    jobs = {f"{name}-{n}": each for n, each in enumerate(every_guest(made.project))}
    sent = [
        {"id": job_id, "kind": guest.kind, "fields": guest.model_dump(mode="json")}
        for job_id, guest in jobs.items()
    ]
    _say(made, jobs, "invoke")
    made.postgresql.fetch(
        "WITH job AS (SELECT each->>'id' AS id, each->>'kind' AS kind, each->'fields' AS fields "
        "FROM jsonb_array_elements($1::text::jsonb) AS each), "
        "own AS (INSERT INTO producer_row SELECT id FROM job) "
        "SELECT ledgerq.enqueue_job(kind, fields, job_id => id) FROM job",
        json.dumps(sent),
    )
    _say(made, jobs, "ok")
    return jobs


def _say(made: World, jobs: dict[str, Guest], event: str) -> None:
    told = made.producers.folder / "guests.jsonl"
    with told.open("a") as lines:
        for job_id, guest in jobs.items():
            about = {"kind": guest.kind, "effects": guest.effects, "poison": False, "source": "sql"}
            line = {"event": event, "id": job_id, "at": time.time(), **about, **expected(guest)}
            lines.write(json.dumps(line) + "\n")
