"""The wire believes nothing."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerq.errors import Undecodable
from ledgerq.wire.envelope import (
    MAX_BODY_BYTES,
    Envelope,
    check_job_id,
    decode,
    encode,
    presentable,
    queue_mark,
    queue_of,
)

GOOD: dict[str, Any] = {"t": None, "f": "create_task", "a": [], "k": {"title": "x"}, "et": 1}


def body(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def test_what_is_encoded_is_decoded_again() -> None:
    """Kind, payload, actor, trace and time survive the wire."""
    envelope = Envelope("create_task", {"title": "Zürich 移动 🛠"}, actor="user:7", trace_id="t1")
    assert decode(encode(envelope)) == envelope


def test_the_body_is_arqs_own_dictionary() -> None:
    """A stock arq client writes the same keys."""
    written = json.loads(encode(Envelope("create_task", {"title": "x"}, enqueued_ms=5)))
    assert written == {"t": None, "f": "create_task", "a": [], "k": {"title": "x"}, "et": 5}


def test_reserved_names_never_reach_the_payload() -> None:
    """Who asks and the trace ride beside the payload's own fields."""
    envelope = decode(body(k={"title": "x", "_actor": "user:1", "_trace_id": "abc"}))
    assert envelope.payload == {"title": "x"}
    assert (envelope.actor, envelope.trace_id) == ("user:1", "abc")


def test_a_cron_job_is_told_from_a_producers() -> None:
    """What arq's schedule enqueued is the kind, by the actor `schedule`."""
    envelope = decode(body(f="cron:purge_deleted_tasks", k={}))
    assert (envelope.kind, envelope.actor) == ("purge_deleted_tasks", "schedule")
    assert envelope.wire_name == "cron:purge_deleted_tasks"


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b"", "body"),
        (b"\x80\x04\x95", "body"),
        (b"{", "body"),
        (b"[]", "body"),
        (b'{"f": "x", "k": {"n": NaN}}', "body"),
        (b'{"f": "x", "k": {"s": "\\ud800"}}', "body"),
        (b'{"f": "x", "k": {"n": [1, {"m": 1e400}]}}', "body"),
        (b"[" * 100_000, "body"),
        (b" " * (MAX_BODY_BYTES + 1), "body"),
        (body(f=None), "f"),
        (body(f=["create_task"]), "f"),
        (body(f=""), "f"),
        (body(f="x" * 101), "f"),
        (body(f="create\ntask"), "f"),
        (body(a=[1]), "a"),
        (body(k=[1]), "k"),
        (body(t="1"), "t"),
        (body(t=True), "t"),
        (body(t=0), "t"),
        (body(et="now"), "et"),
        (body(et=1e300), "et"),
        (body(et=-1), "et"),
        (body(k={"_actor": 7}), "_actor"),
        (body(k={"_actor": "x" * 201}), "_actor"),
    ],
)
def test_what_is_not_ours_is_refused_with_its_field(raw: bytes, field: str) -> None:
    """Every malformed body says which part is wrong."""
    with pytest.raises(Undecodable) as refused:
        decode(raw)
    assert refused.value.problems[0].field == field


@given(st.binary(max_size=200))
def test_no_bytes_do_worse_than_undecodable(raw: bytes) -> None:
    """Whatever stands in Redis, the worker gets an envelope or an Undecodable."""
    with suppress(Undecodable):
        decode(raw)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["t", "f", "a", "k", "et", "x"]), json_values))
def test_no_json_does_worse_than_undecodable(content: dict[str, Any]) -> None:
    """JSON of any shape under arq's keys is an envelope or an Undecodable."""
    with suppress(Undecodable):
        decode(json.dumps(content).encode())


@pytest.mark.parametrize("odd", [{"actor": "x" * 201}, {"actor": "a\nb"}, {"trace_id": "t" * 65}])
def test_nothing_is_encoded_that_no_worker_would_take(odd: dict[str, Any]) -> None:
    """The producer hears of it at once."""
    with pytest.raises(Undecodable, match="printable"):
        encode(Envelope("create_task", {}, **odd))


def test_the_payload_hash_ignores_the_order_of_keys() -> None:
    """Two producers that write the same payload mean the same job."""
    one = Envelope("k", {"a": 1, "b": {"c": [1, {"x": 1, "y": 2}], "d": 2}})
    two = Envelope("k", {"b": {"d": 2, "c": [1, {"y": 2, "x": 1}]}, "a": 1})
    assert one.payload_hash == two.payload_hash
    assert one.payload_hash != Envelope("k", {"a": 2, "b": one.payload["b"]}).payload_hash


@pytest.mark.parametrize("job_id", ["", "x" * 201, "a\nb", "a\x00b", "\x1b[31m"])
def test_a_job_id_must_be_short_and_printable(job_id: str) -> None:
    """An id that can't be stored, logged and typed is refused."""
    with pytest.raises(Undecodable, match="job_id"):
        check_job_id(job_id)


def test_a_body_names_its_queue_last_and_nowhere_else() -> None:
    """As a script on Redis finds it; a stock client's body names none, and arq passes over the name."""
    marked = encode(Envelope("create_task", {"q": "mine"}), queue='odd "queue" ,"q":"x"}')
    assert (decode(marked).queue, queue_of(marked)) == ('odd "queue" ,"q":"x"}',) * 2
    assert decode(marked).payload == {"q": "mine"}
    assert marked.endswith(queue_mark('odd "queue" ,"q":"x"}'))
    assert decode(encode(Envelope("create_task", {"q": "mine"}))).queue is None
    for wrong in (b'{"f":"x","q":"a","k":{}}', b'{"f":"x","k":{},"q":1}', b'{"f":"x","q":"a" }'):
        with pytest.raises(Undecodable, match="q: must be the last key"):
            decode(wrong)


@pytest.mark.parametrize(
    "twice",
    [
        b'{"f":"one","f":"two","k":{}}',
        b'{"f":"one","\\u0066":"two","k":{}}',
        b'{"t":1,"f":"one","t":2}',
        b'{"f":"one","a":[1],"a":[]}',
        b'{"f":"one","k":{"x":1},"k":{"y":1}}',
        b'{"f":"one","et":1,"et":2}',
        b'{"f":"one","q":"a","q":"a"}',
        b'{"f":"one","k":{"_actor":"me","_actor":"you"}}',
        b'{"f":"one","k":{"_staged":"1","\\u005fstaged":"o"}}',
    ],
)
def test_a_name_that_is_there_twice_is_refused(twice: bytes) -> None:
    """A script on Redis would read the first one, Python the last: a body has one reading."""
    with pytest.raises(Undecodable, match="is there twice"):
        decode(twice)


def test_fields_of_a_payload_may_have_any_name() -> None:
    """Also those of the wire, at any depth, and with control characters in their values."""
    payload = {
        "f": {"f": 1, "_actor": [1]},
        "t": "\x01",
        "k": [["f", 1]],
        "et": None,
        "q": "q",
        "a": "a",
    }
    assert decode(encode(Envelope("create_task", payload), queue="q")).payload == payload


@pytest.mark.parametrize("actor", ["", "\x1b[2J", "x" * 201, None])
def test_what_can_not_be_an_actor_is_refused_at_the_door(actor: Any) -> None:
    """An empty one used to travel as nobody."""
    with pytest.raises(Undecodable, match="_actor: must be"):
        encode(Envelope("create_task", {}, actor=actor))


def test_an_actor_that_can_not_travel_is_spelt_out_and_cut() -> None:
    """For rows that somebody's SQL made."""
    assert presentable("a\x1b\u202e", 200) == r"a\x1b\u202e"
    assert presentable("x" * 300, 200) == "x" * 200


def test_a_body_that_was_cut_says_that_it_is_too_long() -> None:
    """A worker is handed one byte more than it may have."""
    with pytest.raises(Undecodable, match="has more than 1000000 bytes"):
        decode(b"x" * (MAX_BODY_BYTES + 1))
    with pytest.raises(Undecodable, match="has 2000000 bytes"):
        decode(b"x" * 2_000_000)
