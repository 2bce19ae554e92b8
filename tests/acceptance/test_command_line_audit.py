"""What a person asks the audit log from the command line, and how PostgreSQL is told to write it."""

import json
from typing import Any

import pytest
from sqlalchemy import text

from ledgerq.config import Config
from ledgerq.database.engine import Database
from ledgerq.database.transaction import transaction
from ledgerq.store import audit
from ledgerq.store.audit import Change, Origin
from tests.acceptance.processes import environment, ledgerq, one_line

ESCAPE = "\x1b[2J"


@pytest.fixture
async def entries(database: Database) -> None:
    """Three of one order, one of another."""
    async with transaction(database.sessions) as session:
        for n in range(3):
            change = Change("shop_order", "7", "update", {"n": n}, {"n": n + 1, ESCAPE: ESCAPE})
            await audit.record(session, Origin(f"ada{n}", job_id=f"job-{n}"), change)
        other = Change("shop_order", ("EU", 8), "shred now", {"n": 1}, {})
        await audit.record(session, Origin("bo", job_id="job-1"), other)


def asked(*arguments: str, env: dict[str, str]) -> Any:
    answer = ledgerq("audit", *arguments, "--json", env=env)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


@pytest.mark.usefixtures("entries")
def test_an_entity_is_shown_oldest_first_in_pages(config: Config) -> None:
    """For a program and for a person, whose terminal obeys nothing of it."""
    env = environment(config)
    first = asked("shop_order", "7", "--limit", "2", env=env)
    assert [each["actor"] for each in first["entries"]] == ["ada0", "ada1"]
    rest = asked("shop_order", "7", "--limit", "2", "--after", str(first["after"]), env=env)
    assert ([each["actor"] for each in rest["entries"]], rest["after"]) == (["ada2"], None)
    assert rest["entries"][0]["after"] == {"n": 3, ESCAPE: ESCAPE}
    shown = ledgerq("audit", "shop_order", "7", "--limit", "2", env=env).stdout
    assert "ada1" in shown
    assert "There may be more: --after" in shown
    assert "\x1b" not in shown
    assert "shred now" in ledgerq("audit", "shop_order", "EU,8", env=env).stdout


@pytest.mark.usefixtures("entries")
def test_a_job_is_shown_with_all_that_it_did(config: Config) -> None:
    """Of whatever entities; without an application too."""
    env = {**environment(config), "LEDGERQ_APP": ""}
    found = asked("--job", "job-1", env=env)["entries"]
    assert [(each["entity_id"], each["actor"]) for each in found] == [("7", "ada1"), ("EU,8", "bo")]
    assert "no entry of job nope" in ledgerq("audit", "--job", "nope", env=env).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["task"], "ENTITY ID: is missing"),
        (["task", "1", "--job", "x"], "--job: stands beside an entity"),
        (["attach", "nothing"], "TABLE: there is no table nothing"),
        (["attach", "task", "--mask", "nope"], "--mask: task has no column 'nope'"),
    ],
)
def test_a_wrong_use_says_the_cure(config: Config, arguments: list[str], said: str) -> None:
    """One line, exit status 2."""
    line = one_line(ledgerq("audit", *arguments, env=environment(config)), status=2)
    assert f"ledgerq: {said}" in line


async def test_a_table_is_attached_and_detached(config: Config, database: Database) -> None:
    """A change by SQL is then in the log; `--sql` prints what would be done, and does nothing."""
    env = environment(config)
    printed = ledgerq("audit", "attach", "project", "--mask", "name", "--sql", env=env).stdout
    assert "CREATE OR REPLACE TRIGGER ledgerq_audit_update AFTER UPDATE ON" in printed
    insert = text("INSERT INTO project (name) VALUES ('secret') RETURNING id")
    project_id = None
    for command in ("--sql", "--mask=name"):
        assert ledgerq("audit", "attach", "project", command, env=env).returncode == 0
        async with database.engine.begin() as connection:
            project_id = await connection.scalar(insert)
    assert ledgerq("audit", "detach", "project", env=env).returncode == 0
    async with database.engine.begin() as connection:
        await connection.execute(insert)
    async with database.sessions() as session:
        [entry] = await audit.history(session, "project", project_id or 0)
    assert (entry.action, entry.after["name"]) == ("create", "***")
    assert entry.actor.startswith("database:")
