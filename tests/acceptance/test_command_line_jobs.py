"""What a person does about jobs from the command line: look, replay, discard, cancel."""

import json
from typing import Any

import pytest
from typer.main import get_command

from db.models import Project, Task
from jobs.kinds import CreateProject, CreateTask
from ledgerq.cli.main import commands as root
from ledgerq.client import JobClient
from ledgerq.config import Config
from ledgerq.database.engine import Sessions
from ledgerq.database.transaction import transaction
from ledgerq.errors import DeadLetterReason
from ledgerq.execution.dead_letter import letter_of
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.outcome import Buried
from ledgerq.execution.retry import Policy
from ledgerq.staging import stage
from ledgerq.store import dead_letters, inbox
from ledgerq.store.tables import Action, AuditLog, DeadLetter, JobState, OutboxMessage, ProcessedJob
from ledgerq.wire.envelope import Envelope, encode
from tests.acceptance.processes import environment, ledgerq, ledgerq_anew, one_line
from tests.support import count, delivery, new_project, process_one, rows
from worker.app import app

ESCAPE = "\x1b[2J"


async def run(sessions: Sessions, *arrived: Delivery) -> None:
    for each in arrived:
        await process_one(each, app.registry(), sessions, Policy())


async def bury(sessions: Sessions, *job_ids: str) -> None:
    """Jobs that fail in the same way: their project is missing."""
    await run(sessions, *(delivery(CreateTask(title="x", project_id=99), j) for j in job_ids))


async def bury_many(sessions: Sessions, *job_ids: str) -> None:
    """The same, in a hurry."""
    broken = delivery(CreateTask(title="x", project_id=99))
    letter = letter_of(broken, Buried(DeadLetterReason.REFUSED, ValueError("made up")))
    async with transaction(sessions) as session:
        for job_id in job_ids:
            await inbox.insert_receipt(session, job_id, "create_task", b"", state=JobState.DEAD)
            letter.job_id = job_id
            await dead_letters.bury(session, letter)


async def bury_illegible(sessions: Sessions, job_id: str = "odd") -> None:
    await run(sessions, Delivery(job_id, 1, b"{" + ESCAPE.encode()))


def answer(*arguments: str, env: dict[str, str]) -> Any:
    """What a command tells a program."""
    result = ledgerq(*arguments, "--json", env=env)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


AS_STARTED = {
    "migrate": ([], "the app's own at 0008"),
    "enqueue": (["create_project", "--payload", '{"name": "x"}'], "create_project is job "),
    "health": ([], "ok   database"),
    "kinds": ([], "bulk_create_tasks"),
    "status": ([], "queued"),
    "job": (["d1"], "MissingReference"),
    "cancel": (["s1"], "job s1 is unknown; if it is enqueued later, it will not run"),
    "audit show": (["project", "1"], "The audit log has no entry of project 1."),
    "audit attach": (["project"], "PostgreSQL audits project."),
    "audit detach": (["project"], "PostgreSQL does not audit project."),
    "dead list": ([], "d1"),
    "dead show": (["d1"], "MissingReference"),
    "dead replay": (["d1"], "d1 is staged again"),
    "dead discard": (["d1"], "d1 is discarded"),
}
WITH_A_WORKER = {"worker", "dev", "init", "dead resolve"}  # which other tests start


@pytest.mark.parametrize("command", AS_STARTED)
async def test_a_command_works_as_a_person_starts_it(
    config: Config, sessions: Sessions, command: str
) -> None:
    """By `python -m worker`: the other tests fork theirs from a process that has imported the libraries."""
    await bury(sessions, "d1")
    arguments, said = AS_STARTED[command]
    ended = ledgerq_anew(*command.split(), *arguments, env=environment(config))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert said in ended.stdout


def test_every_command_is_started_so_by_some_test() -> None:
    """A new one is added above."""
    commands = get_command(root).commands  # type: ignore[attr-defined]
    groups = {f"{group} {name}" for group in ("audit", "dead") for name in commands[group].commands}
    assert AS_STARTED.keys() | WITH_A_WORKER == (commands.keys() | groups) - {"audit", "dead"}


async def test_dead_letters_are_listed_shown_and_counted(
    config: Config, sessions: Sessions
) -> None:
    """All, those that fit, or grouped by how they failed; for a person and for a program."""
    await bury(sessions, "d1", "d2")
    await bury_illegible(sessions)
    env = environment(config)
    listed = answer("dead", "list", env=env)["letters"]
    assert [each["job_id"] for each in listed] == ["odd", "d2", "d1"]
    some = answer("dead", "list", "--reason", "refused", "--limit", "1", env=env)["letters"]
    assert [each["job_id"] for each in some] == ["d2"]
    groups = answer("dead", "list", "--group", "--kind", "create_task", env=env)["groups"]
    assert [(each["count"], each["job_id"]) for each in groups] == [(2, "d2")]
    for arguments in (["list"], ["list", "--group"]):
        shown = ledgerq("dead", *arguments, env=env)
        assert shown.returncode == 0, shown.stderr
        assert "undecodable" in shown.stdout
    assert "no such dead letters" in ledgerq("dead", "list", "--kind", "nope", env=env).stdout
    one = answer("dead", "show", "d1", env=env)
    assert (one["payload"], one["reason"]) == ({"title": "x", "project_id": 99}, "refused")
    assert "Traceback" in one["traceback"]
    assert "project_id" in ledgerq("dead", "show", "d1", env=env).stdout


async def test_nothing_that_is_shown_moves_the_cursor(config: Config, sessions: Sessions) -> None:
    """Kinds, payloads and bytes come from anywhere; a terminal must not obey them."""
    await bury_illegible(sessions)
    payload = {"title": ESCAPE, "project_id": 99, ESCAPE: 1}
    await run(sessions, Delivery("job", 1, encode(Envelope("create_task", payload))))
    assert await count(sessions, DeadLetter) == 2
    env = {**environment(config), "FORCE_COLOR": "1"}
    for arguments in (
        ["dead", "list"],
        ["dead", "show", "odd"],
        ["dead", "show", "job"],
        ["job", "job"],
    ):
        shown = ledgerq(*arguments, env=env)
        assert shown.returncode == 0, shown.stderr
        assert ESCAPE not in shown.stdout + shown.stderr


async def test_a_job_is_mended_and_replayed(config: Config, sessions: Sessions) -> None:
    """The edited payload is checked by its kind's rules first; then the job is staged once more."""
    await bury(sessions, "d1")
    env = environment(config)
    wrong = ["--payload", '{"title": ""}']
    refused = one_line(ledgerq("dead", "replay", "d1", *wrong, env=env), status=2)
    assert "title: String should have" in refused
    assert "project_id: Field required" in refused
    project_id = await new_project(sessions)
    right = json.dumps({"title": "x", "project_id": project_id})
    said = ["--because", "typed wrong", "--actor", "user:7"]
    replayed = answer("dead", "replay", "d1", "--payload", right, *said, env=env)["replayed"]
    assert replayed == [
        {"letter_of": "d1", "job_id": "d1", "kind": "create_task", "done_again": []}
    ]
    (message,) = await rows(sessions, OutboxMessage)
    body = encode(Envelope(message.kind, message.payload, message.actor, staged=True))
    await run(sessions, Delivery("d1", 1, body))
    assert await count(sessions, Task) == 1
    entries = [e for e in await rows(sessions, AuditLog) if e.job_id == "d1"]
    assert [(e.action, e.actor) for e in entries] == [("replay", "user:7"), ("create", "tester")]
    assert entries[0].after == {"reason": "typed wrong", "payload_edited": True}


async def test_a_letter_without_kind_and_payload_is_given_both(
    config: Config, sessions: Sessions
) -> None:
    """The error says so, one option after the other."""
    await bury_illegible(sessions)
    env = environment(config)
    assert "give --kind and --payload" in one_line(ledgerq("dead", "replay", "odd", env=env))
    payload = ["--payload", '{"name": "Launch"}']
    assert "--kind: is missing" in one_line(
        ledgerq("dead", "replay", "odd", *payload, env=env), status=2
    )
    nope = ["--kind", "nope", *payload]
    assert "'nope' is unknown" in one_line(
        ledgerq("dead", "replay", "odd", *nope, env=env), status=2
    )
    given = ["--kind", "create_project", "--new-id", "p1", *payload]
    done = ledgerq("dead", "replay", "odd", *given, env=env)
    assert done.stdout == "odd is staged again, as create_project under the id p1\n"
    (message,) = await rows(sessions, OutboxMessage)
    assert (message.job_id, message.payload) == ("p1", {"name": "Launch"})


async def test_a_thousand_letters_are_replayed_at_once(config: Config, sessions: Sessions) -> None:
    """A page to a transaction. What can't be replayed as it is stays, and is told of."""
    ids = [f"d{n:04}" for n in range(1200)]
    await bury_many(sessions, *ids)
    await bury_illegible(sessions)
    env = environment(config)
    swept = answer("dead", "replay", "--all", env=env)
    assert (swept["replayed"], swept["left"]) == (1200, 1)
    assert "of job odd" in swept["obstacles"][0]
    assert {m.job_id for m in await rows(sessions, OutboxMessage)} == set(ids)
    assert await count(sessions, AuditLog) == 1200
    assert [letter.job_id for letter in await rows(sessions, DeadLetter)] == ["odd"]
    assert [row.job_id for row in await rows(sessions, ProcessedJob)] == ["odd"]
    nothing = ledgerq("dead", "replay", "--all", "--kind", "create_task", env=env)
    assert nothing.stdout == "0 replayed\n"


async def test_letters_are_discarded(config: Config, sessions: Sessions) -> None:
    """By id, or all that fit; their jobs stay dead."""
    await bury(sessions, "d1", "d2", "d3")
    await bury_illegible(sessions)
    env = environment(config)
    assert answer("dead", "discard", "d1", env=env) == {"discarded": ["d1"]}
    swept = ledgerq("dead", "discard", "--all", "--reason", "refused", env=env)
    assert swept.stdout == "2 discarded\n"
    assert [letter.job_id for letter in await rows(sessions, DeadLetter)] == ["odd"]
    assert {row.state for row in await rows(sessions, ProcessedJob)} == {JobState.DEAD}
    entries = await rows(sessions, AuditLog)
    assert [entry.action for entry in entries] == [Action.DISCARD] * 3
    assert all(entry.actor.startswith("cli") for entry in entries)
    assert answer("job", "d1", env=env)["state"] == "dead"


async def test_an_id_that_is_not_there_is_named(config: Config, sessions: Sessions) -> None:
    """One line, exit status 1, and the ids beside it are left alone."""
    await bury(sessions, "d1")
    env = environment(config)
    for command in ("show", "replay", "discard"):
        ids = ["nobody"] if command == "show" else ["d1", "nobody"]
        line = one_line(ledgerq("dead", command, *ids, env=env))
        assert line == "ledgerq: job_id: not among the dead letters: nobody"
    assert "no trace of job nobody" in one_line(ledgerq("job", "nobody", env=env))
    assert await count(sessions, DeadLetter) == 1
    assert await count(sessions, AuditLog) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["replay"], "ID: is missing; name the jobs, or give --all"),
        (["discard", "a", "--all"], "ID: is given beside --all"),
        (["replay", "a", "--reason", "x"], "--reason: belongs to --all"),
        (["discard", "a", "--kind", "x"], "--kind: belongs to --all"),
        (["replay", "--all", "--payload", "{}"], "--payload: is for one job"),
        (["replay", "a", "b", "--new-id", "c"], "--new-id: is for one job"),
        (["show", "a\nb"], "job_id: must be printable characters only"),
    ],
)
def test_what_is_unclear_is_refused(arguments: list[str], said: str) -> None:
    """Before any server is asked; the exit status is that of a wrong use."""
    assert said in one_line(ledgerq("dead", *arguments), status=2)


async def test_a_queued_job_is_cancelled(
    config: Config, sessions: Sessions, client: JobClient
) -> None:
    """It is dead to the world; a job that was done is not cancelled, and the exit status says so."""
    await client.enqueue(CreateProject(name="x"), job_id="q1")
    await run(sessions, delivery(CreateProject(name="y"), "done"))
    env = environment(config)
    assert ledgerq("cancel", "q1", env=env).stdout == "job q1 is cancelled\n"
    late = ledgerq("cancel", "done", env=env)
    assert (late.returncode, late.stdout) == (1, "job done is done already; nothing has changed\n")
    early = ledgerq("cancel", "q2", env=env)
    assert (early.returncode, "if it is enqueued later, it will not run" in early.stdout) == (
        0,
        True,
    )
    found = answer("job", "q1", env=env)
    assert (found["state"], found["audit"][0]["action"]) == ("cancelled", "cancel")
    assert await count(sessions, Project) == 1
    assert "--timeout: is out of range" in one_line(
        ledgerq("cancel", "x", "--timeout", "0", env=env), status=2
    )


async def test_a_job_is_cancelled_while_redis_is_away(config: Config, sessions: Sessions) -> None:
    """It is, and Redis was not told."""
    async with transaction(sessions) as session:
        await stage(session, CreateProject(name="x"), job_id="s1")
    env = {**environment(config), "REDIS_URL": "redis://:hunter2@127.0.0.1:1"}
    result = ledgerq("cancel", "s1", "--json", env=env)
    assert (result.returncode, json.loads(result.stdout)["state"]) == (0, "cancelled")
    assert "Redis was not told" in result.stderr
    status = ledgerq("status", "--json", env=env)
    assert "REDIS_URL: no answer" in one_line(status)
    assert json.loads(status.stdout)["ledger"]["cancelled"] == 1


async def test_status_and_job_say_where_the_jobs_are(
    config: Config, sessions: Sessions, client: JobClient
) -> None:
    """For a person and for a program."""
    await client.enqueue(CreateProject(name="x"), job_id="q1")
    await run(sessions, delivery(CreateProject(name="y"), "done"))
    await bury(sessions, "d1")
    env = environment(config)
    found = answer("status", env=env)
    assert (found["queue"]["queued"], found["queue"]["deferred"]) == (1, 0)
    assert (found["ledger"]["done"], found["ledger"]["dead"]) == (1, 1)
    shown = ledgerq("status", env=env)
    assert shown.returncode == 0
    assert "queued" in shown.stdout
    assert answer("job", "q1", env=env)["state"] == "queued"
    for job_id, said in (("done", "create_project"), ("d1", "MissingReference")):
        shown = ledgerq("job", job_id, env=env)
        assert shown.returncode == 0, shown.stderr
        assert said in shown.stdout


async def test_a_replay_without_redis_says_so_beside_its_answer(
    config: Config, sessions: Sessions
) -> None:
    """A program still reads one JSON object."""
    await bury(sessions, "d1", "d2")
    env = {**environment(config), "REDIS_URL": "redis://:hunter2@127.0.0.1:1"}
    for arguments in (["d1"], ["--all"]):
        result = ledgerq("dead", "replay", *arguments, "--json", env=env)
        assert json.loads(result.stdout)["replayed"]
        assert "REDIS_URL: Redis does not answer" in result.stderr
        assert "hunter2" not in result.stderr
    assert await count(sessions, OutboxMessage) == 2
