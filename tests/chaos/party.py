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
from tests.chaos.outside_kinds import EFFECTS

SLOWEST = 0.3  # seconds that a call takes at most …
SLOWEST_STEP = 10.0  # … and one of a step: longer than a worker needs to get its connections back
HELD = 120.0  # seconds that a call is held at most
TROUBLES: dict[str, dict[str, float]] = {
    "keyed": {"error before": 0.05, "error after": 0.05, "cut": 0.05},
    "plain": {"error before": 0.01, "error after": 0.01, "cut": 0.01},
}

Answer = Literal["none", "ok", "error", "cut"]
Moment = Literal["asked", "answered"]


@dataclass(slots=True)
class Call:
    """One call. All its times are of the machine's monotonic clock, which all processes share."""

    serial: int  # the number of the call, over all calls
    job_id: str
    step: str
    key: str
    worker: int  # the process that calls
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
    slowest: float = SLOWEST
    slowest_step: float = SLOWEST_STEP
    _keys: set[str] = field(default_factory=set)
    _last: dict[Moment, Call] = field(default_factory=dict)  # of the steps
    _news: threading.Condition = field(default_factory=threading.Condition)

    def take(self, path: str, key: str, worker: int, decoded: float) -> Call:
        """Take a call, perform its effect or not, and decide how to answer."""
        sort, job_id, step = path.strip("/").split("/")
        with self._news:
            call = Call(len(self.calls), job_id, step, key, worker, decoded, time.monotonic())
            self.calls.append(call)
            slowest = self.slowest_step if step in EFFECTS else self.slowest
            seconds, share = self.random.uniform(0, slowest), self.random.random()
            trouble = self._some_trouble(sort)
            self._tell("asked", call)
        time.sleep(seconds * share)
        if trouble != "error before":
            self._perform(call, sort)
        if step in self.held:
            self.let_go.wait(HELD)
        time.sleep(seconds * (1 - share))
        return self._end(call, trouble)

    def answer_at_once(self) -> None:
        """And well."""
        self.troubles, self.slowest, self.slowest_step = {}, 0.0, 0.0

    def wait_for(self, step: str, times: int = 1, seconds: float = 60) -> bool:
        """Wait until the step was asked for so often; False if it was not in time."""
        with self._news:
            return self._news.wait_for(
                lambda: sum(call.step == step for call in self.calls) >= times, seconds
            )

    def next_step(self, moment: Moment, seconds: float) -> Call | None:
        """The next call of a step that is asked for, or that is about to be answered well; None if none is in time."""
        with self._news:
            before = self._last.get(moment)
            self._news.wait_for(lambda: self._last.get(moment) is not before, seconds)
            call = self._last.get(moment)
        return call if call is not before else None

    def _tell(self, moment: Moment, call: Call) -> None:
        if call.step in EFFECTS:
            self._last[moment] = call
        self._news.notify_all()

    def _some_trouble(self, sort: str) -> str:
        shares = self.troubles.get(sort, {})
        names = ("", *shares)
        return self.random.choices(names, (1 - sum(shares.values()), *shares.values()))[0]

    def _perform(self, call: Call, sort: str) -> None:
        with self._news:
            call.is_effect = sort == "plain" or call.key not in self._keys
            self._keys.add(call.key)

    def _end(self, call: Call, trouble: str) -> Call:
        answer: Answer = "cut" if trouble == "cut" else "error" if trouble else "ok"
        with self._news:
            call.answered, call.answer = time.monotonic(), answer
            if answer == "ok":
                self._tell("answered", call)
        return call


@contextmanager
def party(random: Random) -> Iterator[Party]:
    """A party that listens on a free port of this machine."""
    it = Party(random)

    def post(path: str, headers: Message) -> Response | None:
        worker, decoded = int(headers["Worker"]), float(headers["Decoded"])
        call = it.take(path, headers["Idempotency-Key"], worker, decoded)
        if call.answer == "cut":
            return None
        return 200 if call.answer == "ok" else 503, {"serial": call.serial, "step": call.step}

    with answering(post) as it.url:
        try:
            yield it
        finally:
            it.let_go.set()
