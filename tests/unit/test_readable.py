"""What is read of bytes that are not a job."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerq.wire.envelope import Envelope, encode
from ledgerq.wire.readable import ReadableParts, readable_parts


@pytest.mark.parametrize(
    ("body", "read"),
    [
        (None, ReadableParts()),
        (b"", ReadableParts()),
        (b"[1]", ReadableParts()),
        (b"[" * 200_000, ReadableParts()),
        (b'{"f":7,"k":[1]}', ReadableParts()),
        (b'{"f":"x","a":[1],"k":{"_actor":"me"}}', ReadableParts(kind="x", actor="me")),
        (b'{"f":"x\\n","k":{"_actor":"me","_trace_id":"t"}}', ReadableParts(actor="me", trace_id="t")),
        (b'{"f":"x","k":{"_actor":"me","_actor":"you","_trace_id":"t"}}', ReadableParts(None, "x", None, "t")),
        (b'{"f":"x","f":"y","k":{"_actor":"me"}}', ReadableParts(actor="me")),
        (b'{"f":"x","a":[1],"k":{"_actor":"\\u001b[2J"}}', ReadableParts(kind="x")),
        (b'{"f":"x","a":[1],"k":{"_actor":"\\ud800"}}', ReadableParts(kind="x")),
        (b'{"f":"x","k":{"_actor":"me","n":"\xff"}}', ReadableParts(kind="x", actor="me")),
        (b'{"f":"x","k":{"_actor":"me","n":NaN}}', ReadableParts(kind="x", actor="me")),
        (b'{"f":"x","k":{"_actor":"me","n":' + b"9" * 9_000 + b"}}", ReadableParts(kind="x", actor="me")),
        (b'{"f":"cron:x","a":[1]}', ReadableParts(kind="x", actor="schedule")),
        (b'{"f":"cron:","a":[1],"k":{}}', ReadableParts(actor="schedule")),
    ],
)  # fmt: skip
def test_each_part_that_is_fit_is_read_by_itself(body: bytes | None, read: ReadableParts) -> None:
    """One that is not, or that stands there twice, is left out alone."""
    assert readable_parts(body) == read


def test_a_body_that_is_a_job_is_read_as_one() -> None:
    """With its envelope."""
    envelope = Envelope("x", {"n": 1}, "me", "t")
    assert readable_parts(encode(envelope)) == ReadableParts(envelope, "x", "me", "t")


@given(st.binary(max_size=200))
def test_no_bytes_make_it_raise(body: bytes) -> None:
    """A burial must not fail."""
    readable_parts(body)
