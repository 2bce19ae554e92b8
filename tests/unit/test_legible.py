"""What is read of bytes that are not a job."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.envelope import Envelope, encode
from jobs.legible import Legible, legible


@pytest.mark.parametrize(
    ("body", "read"),
    [
        (None, Legible()),
        (b"", Legible()),
        (b"[1]", Legible()),
        (b"[" * 200_000, Legible()),
        (b'{"f":7,"k":[1]}', Legible()),
        (b'{"f":"x","a":[1],"k":{"_actor":"me"}}', Legible(kind="x", actor="me")),
        (b'{"f":"x\\n","k":{"_actor":"me","_trace_id":"t"}}', Legible(actor="me", trace_id="t")),
        (b'{"f":"x","k":{"_actor":"me","_actor":"you","_trace_id":"t"}}', Legible(None, "x", None, "t")),
        (b'{"f":"x","f":"y","k":{"_actor":"me"}}', Legible(actor="me")),
        (b'{"f":"x","a":[1],"k":{"_actor":"\\u001b[2J"}}', Legible(kind="x")),
        (b'{"f":"x","a":[1],"k":{"_actor":"\\ud800"}}', Legible(kind="x")),
        (b'{"f":"x","k":{"_actor":"me","n":"\xff"}}', Legible(kind="x", actor="me")),
        (b'{"f":"x","k":{"_actor":"me","n":NaN}}', Legible(kind="x", actor="me")),
        (b'{"f":"x","k":{"_actor":"me","n":' + b"9" * 9_000 + b"}}", Legible(kind="x", actor="me")),
        (b'{"f":"cron:x","a":[1]}', Legible(kind="x", actor="schedule")),
        (b'{"f":"cron:","a":[1],"k":{}}', Legible(actor="schedule")),
    ],
)  # fmt: skip
def test_each_part_that_is_fit_is_read_by_itself(body: bytes | None, read: Legible) -> None:
    """One that is not, or that stands there twice, is left out alone."""
    assert legible(body) == read


def test_a_body_that_is_a_job_is_read_as_one() -> None:
    """With its envelope."""
    envelope = Envelope("x", {"n": 1}, "me", "t")
    assert legible(encode(envelope)) == Legible(envelope, "x", "me", "t")


@given(st.binary(max_size=200))
def test_no_bytes_make_it_raise(body: bytes) -> None:
    """A burial must not fail."""
    legible(body)
