"""Which faults have met a step in flight: one that the party was asked for, and whose answer was not recorded yet.

Only steps of the processes that the fault has hit count, and only while these live.
"""

import math
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.chaos.fleet import Fleet
from tests.chaos.outside_checker import Traces
from tests.chaos.outside_kinds import EFFECTS
from tests.chaos.party import Call
from tests.chaos.world import Fault

IN_STEPS = "outside: faults with a step in flight"
UNRECORDED = "outside: faults between a step's answer and its record"
TAKEN = "outside: workers killed or stopped with a step in flight"


@dataclass(frozen=True, slots=True)
class Step:
    """One call of a step. Its times are of the wall clock."""

    worker: int
    asked: float
    answered: float
    recorded: float  # or when the call or its worker has ended, if that was not recorded


def steps_of(traces: Mapping[str, Traces], fleet: Fleet) -> list[Step]:
    """The steps of all jobs, by the time at which they were asked for."""
    ended = {member.pid: member.ended for member in (*fleet.gone, *fleet.living())}
    offset = time.time() - time.monotonic()
    steps = [
        _step(call, left.entries[call.step], ended.get(call.worker, math.inf), offset)
        for left in traces.values()
        for call in left.calls
        if call.step in EFFECTS
    ]
    return sorted(steps, key=lambda step: step.asked)


def _step(call: Call, records: Iterable[float], worker_ended: float, offset: float) -> Step:
    answered = call.answered + offset if call.answer != "none" else math.inf
    recorded = answered
    if call.answer == "ok":
        recorded = min((at for at in records if at >= answered), default=answered)
    return Step(call.worker, call.arrived + offset, answered, min(recorded, worker_ended))


def hits(faults: Iterable[Fault], steps: Sequence[Step]) -> Counter[str]:
    """How many faults have met one of the steps, and how."""
    counts = Counter({IN_STEPS: 0, UNRECORDED: 0, TAKEN: 0})
    longest = max((step.recorded - step.asked for step in steps), default=0)
    for fault in faults:
        first = bisect_left(steps, fault.at - longest, key=lambda step: step.asked)
        last = bisect_right(steps, fault.at, key=lambda step: step.asked)
        pids = {int(name.split(":")[-2]) for name in fault.victims if ":" in name}
        met = [
            step
            for step in steps[first:last]
            if fault.at <= step.recorded and (not fault.victims or step.worker in pids)
        ]
        counts[IN_STEPS] += bool(met)
        counts[UNRECORDED] += any(step.answered <= fault.at for step in met)
        counts[TAKEN] += bool(met) and fault.takes_workers
    return counts
