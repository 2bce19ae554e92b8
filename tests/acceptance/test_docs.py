"""The docs say what is so: their code is run, their commands exist, their links lead somewhere, the reference is the code."""

import importlib
import inspect
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from pydantic_settings import BaseSettings
from sqlalchemy.engine import URL
from typer.main import get_command

import ledgerq
from ledgerq.cli.main import commands as app
from ledgerq.config import CommandSettings, WorkerConfig
from ledgerq.database.settings import DatabaseConfig
from ledgerq.settings import variables
from tests.acceptance import forked
from tests.acceptance.pages import OF_PEOPLE, Shell, blocks_of, environment
from tests.acceptance.processes import ROOT
from tests.conftest import plain

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
SHOP = ROOT / "examples" / "shop" / "README.md"  # tests/acceptance/test_shop.py runs the shop
CLI = DOCS / "reference" / "cli.md"  # made from the code: no page to be run
WITH_CODE = [
    page for page in PAGES if page != CLI and any(block.language for block in blocks_of(page))
]
README_LINES, SHOP_LINES = 200, 60
COMMANDS = get_command(app)
# the README's start, which tests/acceptance/test_init.py runs
ELSEWHERE = {"README.md": ("ledgerq init", "ledgerq dev", "ledgerq enqueue greet")}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
async def test_what_a_page_shows_can_be_run(
    page: Path, tmp_path: Path, postgresql_url: URL, redis_url: str
) -> None:
    """Its files, code and commands, from top to bottom, on real servers."""
    elsewhere = ELSEWHERE.get(name_of(page), ())
    folder = ROOT if page == DOCS / "taskmanager.md" else tmp_path  # it writes no files
    shell = Shell(folder, environment(plain(postgresql_url), redis_url), elsewhere)
    await shell.run(list(blocks_of(page)))


@pytest.mark.parametrize("page", [*PAGES, SHOP], ids=name_of)
def test_the_commands_that_a_page_names_exist(page: Path) -> None:
    """Each `ledgerq …` is a command with such options, each `make …` a target."""
    makefile = (ROOT / "Makefile").read_text()
    for line in code_lines(page):
        for target in re.findall(r"^make ([a-z-]+)", line):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), line
        told = re.match(r"ledgerq ([a-z]+)\b(.*)", line)
        if told:
            check_command(told[1], told[2], line)


def code_lines(page: Path) -> list[str]:
    """The page's code spans, and the commands of its console blocks."""
    if page == CLI:
        return []
    lines = [command for block in blocks_of(page) for command, _ in block.commands]
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text()):
        lines += [each.content for each in token.children or [] if each.type == "code_inline"]
    return lines


def check_command(name: str, rest: str, line: str) -> None:
    command = COMMANDS.commands.get(name)  # type: ignore[attr-defined]
    assert command, line
    sub = re.match(r" ([a-z]+)", rest)
    default = command.commands["show"] if name == "audit" else command
    command = getattr(command, "commands", {}).get(sub[1] if sub else "", default)
    options = {option for parameter in command.params for option in parameter.opts}
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "", rest)  # of payloads and reasons
    assert set(re.findall(r"--[a-z-]+", text)) <= options, line


@pytest.mark.parametrize("page", [*PAGES, SHOP], ids=name_of)
def test_the_links_of_a_page_lead_to_a_file(page: Path) -> None:
    """`make docs` checks those between pages, with their anchors; this one images, and the README's, too."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_a_readme_is_short() -> None:
    """What is longer has a page of its own."""
    for page, longest in ((ROOT / "README.md", README_LINES), (SHOP, SHOP_LINES)):
        assert len(page.read_text().splitlines()) <= longest


def test_every_page_is_in_the_navigation() -> None:
    """And the navigation names no page that is not there."""
    nav = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    named = [page for part in nav for pages in part.values() for page in pages]
    told = [page if isinstance(page, str) else next(iter(page.values())) for page in named]
    assert sorted(told) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES[1:])


def test_the_table_of_settings_is_the_code() -> None:
    """Every variable is there, with its default."""
    page = (DOCS / "reference" / "settings.md").read_text()
    told = dict(re.findall(r"^\| `([A-Z_]+)` \| ([^|]+) \|", page, re.MULTILINE))
    assert told == {
        variable: default_of(kind, field)
        for kind in (CommandSettings, DatabaseConfig, WorkerConfig)
        for variable, field in variables(kind).items()
    }


def default_of(kind: type[BaseSettings], field: str) -> str:
    info = kind.model_fields[field]
    if info.is_required():
        return "–"
    if not info.default and isinstance(info.default, str):
        return "none"
    if isinstance(info.default, tuple):
        return ",".join(info.default)
    return str(info.default).lower() if isinstance(info.default, bool) else str(info.default)


def test_the_page_of_the_command_line_is_the_code() -> None:
    """`make docs` writes it anew."""
    words = ("-m", "typer", "ledgerq.cli.main", "utils", "docs", "--name", "ledgerq")
    made = forked.run(words, env=os.environ, cwd=ROOT, seconds=60).stdout
    assert CLI.read_text().strip() == made.strip(), "run: make docs"


def test_the_reference_has_every_public_name() -> None:
    """Each name of `ledgerq.__all__`, each public module; each name is told in a docstring."""
    page = (DOCS / "reference" / "api.md").read_text()
    told = set(re.findall(r"^::: ledgerq\.(?:job\.)?(\w+)$", page, re.MULTILINE))
    assert told >= set(ledgerq.__all__)
    for name in told - set(ledgerq.__all__):
        importlib.import_module(f"ledgerq.{name}")
    assert all(docstring(getattr(ledgerq, name)) for name in ledgerq.__all__)


def docstring(public: Any) -> str | None:
    has_one = inspect.isclass(public) or inspect.isfunction(public)
    return inspect.getdoc(public) if has_one else "an alias; the docstring is its type's"


def test_each_command_of_a_page_is_run_or_left_to_people() -> None:
    """A console block that is not run by its page's test is one that no test can start."""
    shell = {"ledgerq", "python", "export", "cd", "mkdir", "curl"}
    for page in WITH_CODE:
        for block in blocks_of(page):
            for command, _ in block.commands:
                assert command.split()[0] in shell | OF_PEOPLE, f"{name_of(page)}: {command}"


def test_the_tests_that_the_docs_name_exist() -> None:
    """A row of a table is worth its test."""
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    existing = set(re.findall(r"def (test_\w+)\(", tests))
    for page in PAGES:
        assert set(re.findall(r"`(test_\w+)`", page.read_text())) <= existing, name_of(page)
    for name in ("database", "operations", "reliability"):
        assert "`test_" in (DOCS / f"{name}.md").read_text(), name
