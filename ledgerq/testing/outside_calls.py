"""What a job has called outside of the database, as a test sees it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class OutsideCall:
    """A call that a job has made outside of the database; `JobTester.calls` has all of a job.

    `step` is the name of the step, None for `outside.call`. `function` is the name of the called function. `attempt` is the
    job's; calls of two deliveries have the same one if the first of them spent no attempt, as after a crash. `recorded` is
    True if the step's record keeps what this call answered: then no later delivery calls again.

    ```python
    assert await job_tester.calls("letter:7") == [
        OutsideCall("address", "address_of", ("Ada",), {}, attempt=1, recorded=True)
    ]
    ```
    """

    step: str | None
    function: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    attempt: int
    recorded: bool = False


def marked(calls: Sequence[OutsideCall], recorded: Mapping[str, int]) -> list[OutsideCall]:
    """The calls, those marked that were recorded. `recorded`: the name of each recorded step → the attempt that recorded it."""
    # once a step is recorded it is not called again, so its last call is the recorded one
    last = {call.step: place for place, call in enumerate(calls)}
    return [
        replace(call, recorded=last[call.step] == place and recorded.get(call.step) == call.attempt)
        if call.step is not None
        else call
        for place, call in enumerate(calls)
    ]
