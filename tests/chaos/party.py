"""An outside party: an HTTP server in this process that performs effects, and writes down each call.

It is never broken. It answers after a random time, at times with an error, at times not at all; both may come after the
effect. `/keyed/JOB/STEP` performs an effect once for an idempotency key, `/plain/JOB/STEP` once for a call.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from random import Random
from typing import Literal

from tests.answering import Response, answering

SLOWEST = 0.3  # seconds that a call takes at most
TROUBLES: dict[str, dict[str, float]] = {
    "keyed": {"error before": 0.05, "error after": 0.05, "cut": 0.05},
    "plain": {"error before": 0.01, "error after": 0.01, "cut": 0.01},
}

Answer = Literal["none", "ok", "error", "cut"]


@dataclass(slots=True)
class Call:
    """One call. All its times are of the machine's monotonic clock, which all processes share."""

    serial: int  # the number of the call, over all calls
    job_id: str
    step: str
    key: str
    decoded: float  # when the caller's run had not yet read the recorded steps
    arrived: float
    answered: float = 0.0
    answer: Answer = "none"
    is_effect: bool = False


@dataclass(slots=True)
class Party:
    """What was asked of it, and what it did."""

    random: Random
    calls: list[Call] = field(default_factory=list)
    held: set[str] = field(default_factory=set)  # steps that are not answered until `let_go`
    let_go: threading.Event = field(default_factory=threading.Event)
    url: str = ""
    troubles: dict[str, dict[str, float]] = field(default_factory=lambda: TROUBLES)
    _keys: set[str] = field(default_factory=set)
    _asked: threading.Condition = field(default_factory=threading.Condition)

    def take(self, path: str, key: str, decoded: float) -> Call:
        """Take a call, perform its effect or not, and decide how to answer."""
        sort, job_id, step = path.strip("/").split("/")
        with self._asked:
            call = Call(len(self.calls), job_id, step, key, decoded, time.monotonic())
            self.calls.append(call)
            seconds, share = self.random.uniform(0, SLOWEST), self.random.random()
            trouble = self._some_trouble(sort)
            self._asked.notify_all()
        time.sleep(seconds * share)
        if trouble != "error before":
            self._perform(call, sort)
        if step in self.held:
            self.let_go.wait(60)
        time.sleep(seconds * (1 - share))
        return self._end(call, trouble)

    def wait_for(self, step: str, seconds: float = 30) -> bool:
        """Wait until the step was asked for; False if it was not in time."""
        with self._asked:
            return self._asked.wait_for(
                lambda: any(call.step == step for call in self.calls), seconds
            )

    def is_called(self, at: float) -> bool:
        """True if a call was under way at that time of the monotonic clock."""
        return any(
            call.arrived <= at and (call.answer == "none" or at < call.answered)
            for call in self.calls
        )

    def is_needed(self, at: float) -> bool:
        """True if a job was between its first and its last call then."""
        before = {call.job_id for call in self.calls if call.arrived <= at}
        return any(call.job_id in before and at < call.answered for call in self.calls)

    def _some_trouble(self, sort: str) -> str:
        shares = self.troubles.get(sort, {})
        names = ("", *shares)
        return self.random.choices(names, (1 - sum(shares.values()), *shares.values()))[0]

    def _perform(self, call: Call, sort: str) -> None:
        with self._asked:
            call.is_effect = sort == "plain" or call.key not in self._keys
            self._keys.add(call.key)

    def _end(self, call: Call, trouble: str) -> Call:
        answer: Answer = "cut" if trouble == "cut" else "error" if trouble else "ok"
        with self._asked:
            call.answered, call.answer = time.monotonic(), answer
        return call


@contextmanager
def party(random: Random) -> Iterator[Party]:
    """A party that listens on a free port of this machine."""
    it = Party(random)

    def post(path: str, headers: Message) -> Response | None:
        call = it.take(path, headers["Idempotency-Key"], float(headers["Decoded"]))
        if call.answer == "cut":
            return None
        return 200 if call.answer == "ok" else 503, {"serial": call.serial, "step": call.step}

    with answering(post) as it.url:
        try:
            yield it
        finally:
            it.let_go.set()
