"""The command line, as a person and a program use it."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import pytest
from sqlalchemy import text

from db.models import Task
from ledgerq import Payload
from ledgerq.cli import main
from ledgerq.config import Config
from ledgerq.database.engine import Sessions
from ledgerq.database.transaction import transaction
from tests.acceptance import forked
from tests.acceptance.processes import (
    ROOT,
    STOCK,
    environment,
    ledgerq,
    ledgerq_anew,
    one_line,
    worker_process,
)
from tests.support import count, effects, history, new_project, own
from worker.app import app
from worker.demo import run as run_demo

NOWHERE = {
    "DATABASE_URL": "postgresql://me:hunter2@127.0.0.1:1/app",
    "REDIS_URL": "redis://:hunter2@127.0.0.1:1/0",
}


def test_kinds_lists_what_can_be_enqueued() -> None:
    """With the JSON schema of each payload, needing no server and no setting."""
    schemas = json.loads(ledgerq("kinds", "--json").stdout)
    assert schemas.keys() == {kind.name for kind in app.jobs}
    assert schemas["create_task"]["required"] == ["title", "project_id"]
    shown = ledgerq("kinds").stdout
    assert "create_task (many at once share a commit)" in shown
    assert "bulk_create_tasks (own commit)" in shown
    assert "[string]" in shown


def test_kinds_shows_the_types_of_any_payload() -> None:
    """Also numbers to choose from, tuples, and a payload that holds itself."""
    shown = {
        name: main._type_of(rules, Odd.model_json_schema())
        for name, rules in main._resolved(*[Odd.model_json_schema()] * 2)["properties"].items()
    }
    assert shown == {
        "one": "1 | 2", "pair": "[integer, string]", "only": "7", "inner": "[object]", "any": "any",
    }  # fmt: skip


class Odd(Payload[None], kind="odd"):
    one: Literal[1, 2]
    pair: tuple[int, str]
    only: Literal[7]
    inner: "list[Odd]"
    any: Any


def test_no_encoding_of_the_output_stops_a_command_after_its_work(config: Config) -> None:
    """What it lacks is written as an escape; JSON stays JSON."""
    env = {**environment(config), "PYTHONIOENCODING": "ascii"}
    done = ledgerq_anew("cancel", "日本-é", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(ledgerq_anew("job", "日本-é", "--json", env=env).stdout)
    assert found["job_id"] == "日本-é"


@pytest.mark.parametrize("command", [["worker"], ["health"], ["enqueue", "create_project"]])
def test_a_missing_setting_is_named(command: list[str]) -> None:
    """Before anything is connected."""
    if command[0] == "enqueue":
        command = [*command, "--payload", '{"name": "x"}']
    assert "REDIS_URL: is not set" in one_line(ledgerq(*command))
    assert "DATABASE_URL: is not set" in one_line(ledgerq("migrate"))


def test_servers_that_do_not_answer_are_named(config: Config) -> None:
    """Which setting, which address, what to do; never the password."""
    env = environment(config)
    no_redis = {**env, "REDIS_URL": NOWHERE["REDIS_URL"]}
    no_database = {**env, "DATABASE_URL": NOWHERE["DATABASE_URL"]}
    assert "REDIS_URL: no answer from 127.0.0.1:1" in one_line(ledgerq("worker", env=no_redis))
    assert "DATABASE_URL: no answer from postgresql+asyncpg://me:***@127.0.0.1:1/app" in one_line(
        ledgerq("worker", env=no_database)
    )
    assert "DATABASE_URL: no answer" in one_line(ledgerq("migrate", env=no_database))
    payload = ["--payload", '{"name": "x"}']
    assert "REDIS_URL: no answer" in one_line(
        ledgerq("enqueue", "create_project", *payload, env=no_redis)
    )


def test_a_schema_that_is_behind_stops_the_worker(
    config: Config, empty_postgresql_url: Any
) -> None:
    """It says the command that mends it, and that command does."""
    url = empty_postgresql_url.render_as_string(hide_password=False)
    env = {**environment(config), "DATABASE_URL": url}
    assert "run: ledgerq migrate" in one_line(ledgerq("worker", env=env))
    assert ledgerq("migrate", env=env).returncode == 0
    assert json.loads(ledgerq("health", "--json", env=env).stdout)["schema"]["ok"]


async def test_enqueue_wait_and_health(config: Config, sessions: Sessions) -> None:
    """From the command line through a worker process into the database, and the health of it all."""
    env = environment(config)
    assert ledgerq("health", "--worker", env=env).returncode == 1
    project_id = await new_project(sessions)
    payload = json.dumps({"title": "Zürich 移动", "project_id": project_id})
    with worker_process(config, LEDGERQ_QUEUES="default,urgent"):
        arguments = [
            "create_task",
            "--payload",
            payload,
            "--job-id",
            "t-1",
            "--wait",
            "20",
            "--queue",
            "urgent",
            "--json",
        ]
        answer = json.loads(ledgerq("enqueue", *arguments, "--actor", "user:7", env=env).stdout)
        health = ledgerq("health", "--worker", "--json", env=env)
    assert answer["job_id"] == "t-1"
    assert answer["is_new"] is True
    assert await effects(sessions, "t-1") == (1, 1, 1)
    assert (await history(sessions, "task", answer["result"]))[0].actor == "user:7"
    assert health.returncode == 0
    assert json.loads(health.stdout)["ok"] is True


async def test_a_bad_payload_is_refused_before_it_is_enqueued(
    config: Config, sessions: Sessions
) -> None:
    """Every field at fault, on one line."""
    env = environment(config)
    for payload, said in [
        ("{", "payload: Invalid JSON"),
        (
            '{"title": ""}',
            "title: String should have at least 1 character; project_id: Field required",
        ),
        ("[]", "payload: "),
    ]:
        assert said in one_line(
            ledgerq("enqueue", "create_task", "--payload", payload, env=env), status=2
        )
    assert "'nope' is unknown" in one_line(ledgerq("enqueue", "nope", env=env), status=2)
    assert "job_id" in one_line(
        ledgerq("enqueue", "create_project", "--payload", '{"name": "x"}', "--job-id", "", env=env),
        status=2,
    )
    assert await count(sessions, Task) == 0


def test_the_stock_command_names_a_wrong_setting_too() -> None:
    """`arq worker.app.WorkerSettings` with a wrong setting: one line, no traceback."""
    env = {**os.environ, **NOWHERE, "REDIS_URL": "http://:hunter2@x"}
    result = forked.run(STOCK[1:], env=env, cwd=ROOT, seconds=60)
    assert "REDIS_URL: is not a Redis URL" in one_line(result)


def test_the_demo_counts_what_it_promised() -> None:
    """Every job has exactly its rows and its audit entries, in real servers of its own."""
    command = [sys.executable, "-m", "worker.demo", "--jobs", "60", "--json"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    counted = json.loads(result.stdout)
    assert counted["jobs"] == counted["audit_entries"] == counted["processed"] == 60
    assert counted["tasks"] + counted["projects"] + counted["workers"] < 60
    assert counted["tasks"] > 30
    assert counted["dead_letters"] == 0
    assert counted["agrees"] is True
    assert counted["seconds"] > 0
    assert counted["jobs_per_second"] > 0


def test_a_misspelt_setting_stops_every_command() -> None:
    """Before anything is done."""
    typo = {"LEDGERQ_MAX_JOB": "3"}
    for command in (["enqueue", "create_project"], ["migrate"], ["dev"]):
        assert "did you mean LEDGERQ_MAX_JOBS?" in one_line(ledgerq(*command, env=typo))


def test_a_demo_whose_worker_dies_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """It neither hangs nor counts what is not there."""
    real = run_demo._python

    def with_a_worker_that_dies(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        if arguments[0] == "ledgerq":
            arguments = ("json.tool", "/nowhere")  # ends at once, with a complaint
        return real(*arguments, **options)

    monkeypatch.setattr(run_demo, "_python", with_a_worker_that_dies)
    with pytest.raises(run_demo.DemoError, match="the worker ended with status"):
        run_demo.run(20, say=lambda text: None, progress=lambda done: None)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("{base}?sslmode=verify-full&sslrootcert=/nowhere", "certificate"),
        ("{nodb}", "create that database"),
        ("postgresql://postgres@a..b/x", "no answer"),
    ],
)
def test_what_the_server_refuses_is_said(config: Config, url: str, said: str) -> None:
    """With the cure that fits."""
    nodb = config.database.url.set(database="nodb").render_as_string(hide_password=False)
    env = {**environment(config), "DATABASE_URL": url.format(base="postgresql://u@h/d", nodb=nodb)}
    assert said in one_line(ledgerq("migrate", env=env))


async def test_a_role_without_rights_is_told_what_it_lacks(
    config: Config, sessions: Sessions
) -> None:
    """One line from the worker, no traceback from health."""
    weak = own("weak")
    async with transaction(sessions) as session:
        await session.execute(text(f"DROP ROLE IF EXISTS {weak}"))
        await session.execute(text(f"CREATE ROLE {weak} LOGIN"))
    url = config.database.url.set(username=weak).render_as_string(hide_password=False)
    env = {**environment(config), "DATABASE_URL": url}
    cure = f'GRANT USAGE ON SCHEMA ledgerq TO "{weak}"'
    assert cure in one_line(ledgerq("worker", env=env))
    health = ledgerq("health", "--json", env=env)
    assert cure in json.loads(health.stdout)["schema"]["detail"]


async def test_a_schema_newer_than_the_code_is_told_apart(
    config: Config, sessions: Sessions
) -> None:
    """Migrating would not help."""
    async with transaction(sessions) as session:
        await session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    env = environment(config)
    assert "which this code does not know" in one_line(ledgerq("worker", env=env))
    assert "9999" in one_line(ledgerq("migrate", env=env))
    assert "nosuch" in one_line(ledgerq("migrate", "nosuch", env=env))


@pytest.mark.parametrize("option", [["--delay", "inf"], ["--delay", "nan"], ["--wait", "-1"]])
def test_a_time_out_of_range_is_refused(config: Config, option: list[str]) -> None:
    """Before the job is enqueued."""
    command = ["enqueue", "create_project", "--payload", '{"name": "x"}', *option]
    refused = one_line(ledgerq(*command, env=environment(config)), status=2)
    assert f"{option[0]}: is out of range" in refused


def test_no_error_moves_the_cursor_of_a_terminal() -> None:
    """What a person typed is shown without what a terminal would obey."""
    payload = '{"name": "x", "a\\u001b[2J": 1}'
    line = one_line(ledgerq("enqueue", "create_project", "--payload", payload), status=2)
    assert "\x1b" not in line


def test_reset_wipes_no_folder_but_its_own(tmp_path: Path) -> None:
    """`ledgerq dev --reset --folder ~` must not be the end of a home."""
    (tmp_path / "precious").touch()
    assert "was not made by" in one_line(ledgerq("dev", "--reset", "--folder", str(tmp_path)))
    assert (tmp_path / "precious").exists()


def test_the_version_is_told() -> None:
    """That of the package, whatever the settings are."""
    told = ledgerq("--version", env={"LEDGERQ_NO_SETTING": "1"})
    assert (told.returncode, told.stdout) == (0, f"ledgerq {version('ledgerq')}\n")
