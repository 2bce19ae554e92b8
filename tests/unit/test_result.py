"""What a handler may answer: what comes back as it went, and one sentence about the rest."""

import itertools
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic_core import from_json, to_json

from ledgerq.errors import InvalidResult
from ledgerq.wire.result import storable_result

LIMIT = 1_000_000


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


@dataclass
class Holder:
    held: Any


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (10**4300, "more than 4000 digits"),
        ([10**5000], "more than 4000 digits"),
        (-(10**4001), "more than 4000 digits"),
        ({"a": nested(300)}, "more than 100 deep"),
        (nested(102), "more than 100 deep"),
        (float("inf"), "holds inf, which JSON does not have"),
        ({"a": [float("nan")]}, "holds nan"),
        (itertools.count(), "holds a count, which may have no end"),
        ([{"a": (n for n in "ab")}], "holds a generator"),
        (Holder(itertools.repeat(1)), "holds a repeat"),
        ({"a": {map(str, ())}}, "holds a map"),
        (object(), "is not JSON"),
    ],
    ids=lambda _: "",  # pytest would write the numbers out
)
def test_what_no_json_can_carry_is_said_in_one_sentence(answer: Any, said: str) -> None:
    """At once, whatever it is and wherever it stands."""
    with pytest.raises(InvalidResult, match=said):
        storable_result(answer, LIMIT)


def test_a_result_that_holds_itself_is_refused() -> None:
    """It is nested without end."""
    ring: list[Any] = []
    ring.append(ring)
    with pytest.raises(InvalidResult, match="deep"):
        storable_result(ring, LIMIT)


@pytest.mark.parametrize(
    "answer",
    [
        *(None, 0, -1, 2**70, True, "Infinity", 1.5, [], {}, 10**3999),
        *(nested(100), ["NaN", nested(99)], {"a": {"b": ["x" * 300]}}),
    ],
    ids=lambda _: "",
)
def test_what_is_kept_is_read_again_as_it_was(answer: Any) -> None:
    """The first answer is what a duplicate has."""
    kept = storable_result(answer, LIMIT)
    assert kept == answer
    assert from_json(to_json(kept)) == answer


def test_what_has_a_length_is_a_list() -> None:
    """Tuples and dataclasses are not refused."""
    assert storable_result({"a": (1, 2), "b": Holder([3])}, LIMIT) == {
        "a": [1, 2],
        "b": {"held": [3]},
    }
