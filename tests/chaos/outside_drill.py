"""Drills for the seeded bugs of work outside: a worker dies in a job's last step; jobs wait in a step."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.chaos import checker, leaks
from tests.chaos.bugs_outside import (
    IN_LAST_STEP,
    connection_held_in_step,
    intent_not_committed,
    transaction_held_in_step,
)
from tests.chaos.history import Sent
from tests.chaos.outside_checker import check_outside, look_outside
from tests.chaos.outside_kinds import ChaosOutside, ChaosOutsideOnce, expected_outside
from tests.chaos.waiting_drill import most_in_transaction
from tests.chaos.world import World, world

LEASE = 1.5  # seconds
JOB_ID = "the-job"


def dies_in_last_step(bug: str, folder: Path, *, once: bool = False) -> list[str]:
    """The violations. With `once` the step is called at most once."""
    with world(folder, 0, lease=LEASE, rate=1, workers=1, CHAOS_BUG=bug) as made:
        made.party.answer_at_once()
        made.party.held = {"mail"}
        payload = (ChaosOutsideOnce if once else ChaosOutside)(
            project_id=made.project, url=made.party.url
        )
        job = _staged(made, payload)
        if not made.party.wait_for("mail"):
            return ["lost: the job does not come to its last step"]
        for member in made.fleet.living():
            made.fleet.kill(member)
        made.party.let_go.set()
        made.drain(60)
        made.fleet.stop()
        found = checker.look(made.postgresql)
        verdict = checker.check([job], found)
        check_outside([job], found, look_outside(made.postgresql, made.party.calls), verdict)
        return verdict.violations


def waits_in_step(bug: str, folder: Path, *, by: Callable[[World], list[str]]) -> list[str]:
    """A job waits in its first step: what is held meanwhile, as it is seen `by` the database or the worker."""
    with world(folder, 0, lease=LEASE, rate=1, workers=1, CHAOS_BUG=bug) as made:
        made.party.answer_at_once()
        made.party.held = {"charge"}
        _staged(made, ChaosOutside(project_id=made.project, url=made.party.url))
        if not made.party.wait_for("charge"):
            return ["lost: the job does not come to its first step"]
        return by(made)


def by_database(made: World) -> list[str]:
    """The connections that are in a transaction."""
    held = most_in_transaction(made, 3)
    return [f"held: {held} connections are in a transaction in a step"] if held else []


def by_worker(made: World) -> list[str]:
    """The connections that are out of the pool."""
    return leaks.told(made.folder / "logs")


def _staged(made: World, payload: ChaosOutside) -> Sent:
    made.postgresql.fetch("INSERT INTO producer_row VALUES ($1)", JOB_ID)
    made.postgresql.fetch(
        "SELECT ledgerq.enqueue_job($1, $2::text::jsonb, job_id => $3)",
        payload.kind,
        json.dumps(payload.model_dump(mode="json")),
        JOB_ID,
    )
    return Sent(
        JOB_ID, "sql", payload.kind, payload.effects, poison=False, invoked=0, answer="ok",
        **expected_outside(payload),
    )  # fmt: skip


DRILLS: dict[str, Callable[[str, Path], list[str]]] = {
    **{
        bug.__name__: partial(dies_in_last_step, once=bug is intent_not_committed)
        for bug in IN_LAST_STEP
    },
    transaction_held_in_step.__name__: partial(waits_in_step, by=by_database),
    connection_held_in_step.__name__: partial(waits_in_step, by=by_worker),
}
