"""Whatever strangers wrote, no terminal obeys it: each command is shown text that would."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis as redis_sync
from sqlalchemy.engine import URL
from typer.testing import CliRunner, Result

from db.database import open_database
from ledgerq.broker import keys
from ledgerq.cli import main
from ledgerq.cli.output import complain
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.transaction import transaction
from ledgerq.errors import DeadLetterReason, IdHeld
from ledgerq.execution.dead_letter import letter_of
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.outcome import Buried
from ledgerq.store import dead_letters, inbox
from ledgerq.store.tables import Action, AuditLog, JobState
from ledgerq.wire.arq_json import to_wire
from ledgerq.wire.envelope import Envelope, encode

NASTY = "a\x1b[2J\x9b31m\x07\r\u202e\u2028\x85\x7f\t\u200bz"
QUEUE = "arq:queue"

Shown = Callable[..., str]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, sqlite_url: URL, redis_url: str) -> Shown:
    """Runs a command in this process; what it prints, on both streams."""
    monkeypatch.setenv("DATABASE_URL", sqlite_url.render_as_string(hide_password=False))
    monkeypatch.setenv("REDIS_URL", redis_url)

    def run(*arguments: str) -> str:
        result: Result = CliRunner().invoke(main.commands, list(arguments))
        error = result.exception
        if error is not None and not isinstance(error, SystemExit):
            complain(f"ledgerq: {error}")  # as `main` does
        text = result.output
        assert text or error
        assert not [c for c in text if not (c.isprintable() or c in "\n ")], arguments
        return text

    return run


@pytest.fixture
def hostile(sqlite_url: URL, redis_url: str) -> None:
    """Names, ids, results, errors and keys of strangers, in the database and on Redis."""
    asyncio.run(_hostile_rows(sqlite_url))
    with redis_sync.Redis.from_url(redis_url) as redis:
        now = redis.time()[0]
        redis.zadd(keys.workers_key(QUEUE), {f"ledgerq:{NASTY}": now, b"\xff\x1b[2J": now})
        redis.zadd(QUEUE, {NASTY: 1, "odd": 1})
        redis.hset(keys.running_key(QUEUE), NASTY, f"t|1|1|{NASTY}")
        redis.hset(keys.running_key(QUEUE), b"\xff\x1b", f"t|1|1|{NASTY}")
        redis.hset(keys.waits_key(QUEUE), NASTY, f'{{"at": {now}, "text": "\\u001b[2J"}}')
        body = encode(Envelope("create_project", {"name": "x"}))
        redis.set(keys.job_key("odd"), body)
        redis.hset(
            keys.failures_key(QUEUE, "odd"),
            "log",
            f'{{"error": "\\u001b]0;", "worker": "{NASTY}"}}\n{NASTY}',
        )
        result = {
            "s": True,
            "r": {NASTY: NASTY},
            "q": QUEUE,
            "f": "create_project",
            "k": {"name": "x"},
        }
        redis.set(keys.result_key("answered"), to_wire(result))
        redis.set(
            keys.result_key("failed"), to_wire({**result, "s": False, "r": ValueError(NASTY)})
        )


async def _hostile_rows(url: URL) -> None:
    async with (
        open_database(DatabaseConfig(url=url)) as database,
        transaction(database.sessions) as session,
    ):
        letter = letter_of(
            Delivery("x", 1, NASTY.encode()), Buried(DeadLetterReason.REFUSED, ValueError(NASTY))
        )
        written: dict[str, Any] = {
            "kind": NASTY, "error": NASTY, "actor": NASTY, "trace_id": NASTY, "worker": NASTY,
            "traceback": f"{NASTY}\n{NASTY}", "payload": {NASTY: NASTY},
        }  # fmt: skip
        for job_id in ("dead", f"dead {NASTY}"):
            for field, value in {"job_id": job_id, **written}.items():
                setattr(letter, field, value)
            await dead_letters.bury(session, letter)
        await inbox.insert_receipt(session, "done", NASTY, b"", state=JobState.DONE)
        await inbox.keep_result(session, "done", {NASTY: [NASTY]})
        entry = AuditLog(  # past the door, which refuses such an author
            entity_type=NASTY, entity_id="1", action=Action.UPDATE, actor=NASTY,
            before={NASTY: NASTY}, after={}, job_id="done",
        )  # fmt: skip
        session.add(entry)


@pytest.mark.parametrize(
    "command",
    [
        ("status",),
        ("job", "odd"),
        ("job", "done"),
        ("job", "dead"),
        ("dead", "list"),
        ("dead", "list", "--group"),
        ("dead", "show", "dead"),
        ("dead", "replay", "dead", "--kind", NASTY),
        ("dead", "replay", "--all"),
        ("dead", "discard", "dead", NASTY),
        ("dead", "discard", "--all", "--kind", NASTY),
        ("cancel", "odd"),
        ("health",),
        ("kinds",),
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("hostile")
def test_no_command_prints_what_a_terminal_obeys(shown: Shown, command: tuple[str, ...]) -> None:
    """Ids, names, keys, kinds, errors, results: spelt out, for people and for programs."""
    shown(*command)
    if command != ("dead", "discard", "dead", NASTY):
        shown(*command, "--json")


@pytest.mark.usefixtures("hostile")
def test_what_a_job_answered_is_spelt_out(shown: Shown) -> None:
    """`enqueue --wait`, whether it ended well or not."""
    said = ("create_project", "--payload", '{"name": "x"}', "--wait", "5")
    assert r"\x1b[2J" in shown("enqueue", *said, "--job-id", "answered")
    assert r"\u001b[2J" in shown("enqueue", *said, "--job-id", "answered", "--json")
    shown("enqueue", *said, "--job-id", "failed")


def test_errors_of_strangers_are_spelt_out(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever an error repeats."""
    complain(f"ledgerq: {IdHeld('x', NASTY)}\n{NASTY}")
    text = capsys.readouterr().err
    assert not [c for c in text if not (c.isprintable() or c in "\n ")]
