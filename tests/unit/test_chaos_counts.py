"""What the fault suite counts as a fault that met a step in flight."""

import pytest

from tests.chaos.in_flight import IN_STEPS, TAKEN, UNRECORDED, Step, hits
from tests.chaos.world import Fault

STEP = Step(worker=7, asked=10, answered=12, recorded=13)
OURS, OTHER = "ledgerq:host:abc:7:def", "ledgerq:host:abc:8:def"


@pytest.mark.parametrize(
    ("name", "at", "victim", "counted"),
    [
        ("cut_redis", 11, OURS, {IN_STEPS}),
        ("cut_redis", 11, OTHER, set()),
        ("cut_redis", 11, "not known yet", set()),
        ("kill_redis", 11, "", {IN_STEPS}),
        ("kill_redis", 9, "", set()),
        ("kill_redis", 14, "", set()),
        ("cut_postgresql", 12.5, OURS, {IN_STEPS, UNRECORDED}),
        ("kill_worker", 12.5, OURS, {IN_STEPS, UNRECORDED, TAKEN}),
        ("kill_worker", 12.5, OTHER, set()),
        ("kill_all_workers", 11, "", {IN_STEPS, TAKEN}),
    ],
)
def test_a_fault_counts_if_it_hits_the_worker_of_a_step_in_flight(
    name: str, at: float, victim: str, counted: set[str]
) -> None:
    fault = Fault(name, at, at, frozenset({victim} - {""}))
    assert {each for each, times in hits([fault], [STEP]).items() if times} == counted
