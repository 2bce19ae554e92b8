"""The README is the product's face: what it says is run, and compared with the code."""

import asyncio
import re
from typing import Any

import pytest
from pydantic_settings import BaseSettings
from typer.main import get_command

from db.models import Task
from ledgerq.cli.main import commands as app
from ledgerq.config import CommandSettings, Config, WorkerConfig
from ledgerq.database.engine import Sessions
from ledgerq.database.settings import DatabaseConfig
from ledgerq.settings import variables
from tests.acceptance.processes import ROOT, worker_process
from tests.support import rows

README = (ROOT / "README.md").read_text()


async def test_the_example_runs(
    config: Config, sessions: Sessions, capsys: pytest.CaptureFixture[str]
) -> None:
    """The twelve lines, against a worker process."""
    (example,) = re.findall(r"## A job in twelve lines\n\n```python\n(.*?)```", README, re.DOTALL)
    url = config.worker.redis_url.get_secret_value()
    names: dict[str, Any] = {}
    exec(example.replace("redis://localhost:6379", url), names)  # noqa: S102 - our own README
    with worker_process(config):
        await asyncio.wait_for(names["main"](), 30)
    (task,) = await rows(sessions, Task)
    assert task.title == "Write the report"
    assert capsys.readouterr().out == f"{task.id}\n"


def test_the_table_of_settings_is_the_code() -> None:
    """Every variable is there, with its default."""
    told = dict(re.findall(r"^\| `([A-Z_]+)` \| ([^|]+) \|", README, re.MULTILINE))
    assert told == {
        variable: _default(kind, field)
        for kind in (CommandSettings, DatabaseConfig, WorkerConfig)
        for variable, field in variables(kind).items()
    }


def test_the_tests_that_the_docs_name_exist() -> None:
    """A row of a table is worth its test."""
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    existing = set(re.findall(r"def (test_\w+)\(", tests))
    for page in ("database", "operations", "reliability"):
        told = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / f"{page}.md").read_text()))
        assert told
        assert told <= existing, page


def _default(kind: type[BaseSettings], field: str) -> str:
    info = kind.model_fields[field]
    if info.is_required():
        return "–"
    if not info.default and isinstance(info.default, str):
        return "none"
    return str(info.default).lower() if isinstance(info.default, bool) else str(info.default)


def test_the_commands_that_it_names_exist() -> None:
    """Each `ledgerq …` is a command with such options, each `make …` a target."""
    commands = get_command(app).commands  # type: ignore[attr-defined]
    told = set(re.findall(r"ledgerq ([a-z]+)(?=[ `\n])", README)) - {"worker"}
    assert told
    assert told - {"is", "worker", "import"} <= set(commands) | {"runs"}
    for command, sub, option in re.findall(
        r"ledgerq ([a-z]+)(?: ([a-z]+))?[^`\n]*? (--[a-z-]+)", README
    ):
        meant = getattr(commands[command], "commands", {}).get(sub, commands[command])
        assert option in {name for each in meant.params for name in each.opts}
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
