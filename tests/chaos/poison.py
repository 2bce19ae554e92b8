"""What must not kill a worker: bodies, payloads, ids and keys that no honest producer sends."""

import json
from random import Random
from typing import Any

NOW = 1_800_000_000_000
GOOD: dict[str, Any] = {
    "t": None,
    "f": "create_task",
    "a": [],
    "k": {"title": "x", "project_id": 1},
    "et": NOW,
}


def _with(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


BODIES: dict[str, bytes] = {
    "f is a list": _with(f=["create_task"]),
    "f is an object": _with(f={"create_task": 1}),
    "f is missing": _with(f=None),
    "t is a text": _with(t="two"),
    "t is huge": _with(t=10**30),
    "t is negative": _with(t=-1),
    "et is a text": _with(et="yesterday"),
    "et is 1e300": _with(et=1e300),
    "a has arguments": _with(a=[1, 2]),
    "k is a list": _with(k=[1]),
    "no JSON": b"{",
    "not UTF-8": b"\xff\xfe\x00",
    "JSON, no object": b"[]",
    "null": b"null",
    "infinity": b'{"f": "create_task", "k": {"title": "x", "project_id": 1e400}}',
    "deep": b"[" * 100_000,
    "large": b'{"f": "create_task", "k": {"title": "' + b"x" * 1_200_000 + b'"}}',
    "half a character": b'{"f": "create_task", "k": {"title": "\\ud800", "project_id": 1}}',
    "NUL": b'{"f": "create_task", "k": {"title": "\\u0000", "project_id": 1}}',
    "empty": b"",
}

SMALL = [name for name, body in BODIES.items() if 0 < len(body) < 1_000]


def invalid_body(random: Random) -> bytes:
    """The bytes of a job that must end among the dead letters. A pickled one is no such job: it waits for a stock worker."""
    return BODIES[random.choice(SMALL)]


def invalid_payload(random: Random, fields: dict[str, Any]) -> dict[str, Any]:
    """A payload that breaks its kind's rules, or names a row that does not exist.

    A field that is not known is no poison: it has patience, for newer code may know it.
    """
    return random.choice(
        (
            {**fields, "project_id": 9_000_000_000},
            {**fields, "project_id": "one"},
            {**fields, "project_id": None},
            {name: value for name, value in fields.items() if name != "project_id"},
        )
    )


KEYS: tuple[bytes, ...] = (  # ids, each over a good body
    b"\xff\xfe-not-text",
    b"line\nbreak",
    b"nul\x00",
    b"x" * 300,
    b"",
    "größe-№-1".encode(),
)


def is_good(job_id: bytes) -> bool:
    """True if a job of that id may run."""
    try:
        name = job_id.decode()
    except UnicodeDecodeError:
        return False
    return 1 <= len(name) <= 200 and name.isprintable()


def good_body(project: int) -> bytes:
    """A body that is in order."""
    return _with(k={"title": "in order", "project_id": project})
