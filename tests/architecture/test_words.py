"""One word, one meaning: names that docs/glossary.md has retired do not come back."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
_TERMS, _RETIRED_TABLE = GLOSSARY.split("## Retired names")
RETIRED = set(re.findall(r"^\| `([\w.]+)` \|", _RETIRED_TABLE, re.MULTILINE))
EVENTS = {name for name in RETIRED if "." in name}
PREFIXES = ("MOST_", "LONGEST_", "LEAST_")
FOLDERS = ("ledgerq", "db", "jobs", "worker", "migrations", "examples")
PYTHON = sorted(path for each in FOLDERS for path in (ROOT / each).rglob("*.py"))
LUA = sorted((ROOT / "ledgerq" / "broker" / "lua").glob("*.lua"))
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.name != "glossary.md"),
]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def python_names(source: str) -> Iterator[str]:
    """Identifiers, and keys of dictionaries, which may become keyword arguments."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME:
            yield token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Dict):
            yield from (str(key.value) for key in node.keys if isinstance(key, ast.Constant))


def retired(names: Iterator[str]) -> set[str]:
    return {
        name for name in names if name in RETIRED or name.lstrip("_").startswith(PREFIXES)
    } - EVENTS


def test_the_glossary_retires_names_and_explains_words() -> None:
    """The tables are read, not skipped by a change of their form."""
    assert {"Finisher", "remember"} <= RETIRED
    assert "relay.goes_on" in EVENTS
    assert re.search(r"^\| receipt \| \w+", _TERMS, re.MULTILINE)


@pytest.mark.parametrize("path", PYTHON, ids=relative)
def test_no_retired_name_is_in_python_code(path: Path) -> None:
    """Identifiers and log events; prose may use the words of a language."""
    source = path.read_text()
    assert retired(python_names(source)) == set()
    assert {event for event in EVENTS if f'"{event}"' in source} == set()
    assert retired(iter(re.findall(r"`(\w+)`", source))) == set(), "in a docstring or comment"
    raises = re.findall(r"^ +Raises:\n((?: +\w.*\n)+)", source, re.MULTILINE)
    assert (
        retired(
            iter(
                re.findall(
                    r"\w+", " ".join(re.findall(r"^ +([\w, ]+):", "".join(raises), re.MULTILINE))
                )
            )
        )
        == set()
    )


@pytest.mark.parametrize("path", LUA, ids=relative)
def test_no_retired_name_is_in_lua_code(path: Path) -> None:
    """Names of keys on Redis stay as they are: workers of two versions share them."""
    code = re.sub(r"'[^']*'|--.*", "", path.read_text())
    assert retired(iter(re.findall(r"\w+", code))) == set()


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_no_retired_name_is_in_the_docs(path: Path) -> None:
    """What stands between backticks is a name."""
    names = re.findall(r"`([\w.]+)`", path.read_text())
    assert {name for name in names if name in RETIRED} == set()


def logged(source: str) -> Iterator[str]:
    """Events that the code logs, and those that it hands on to be logged."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            calls = {"debug", "info", "warning", "error", "exception", "after"}
            handed_on = bool(node.args) and ast.unparse(node.args[0]).startswith("log.")
            for argument in (
                node.args if getattr(node.func, "attr", "") in calls or handed_on else ()
            ):
                if isinstance(argument, ast.Constant) and re.fullmatch(
                    r"[a-z_]+\.[a-z_]+", str(argument.value)
                ):
                    yield str(argument.value)


def test_each_log_event_is_listed() -> None:
    """docs/log-events.md names what the code logs, and nothing else."""
    page = (ROOT / "docs" / "log-events.md").read_text()
    listed = re.findall(r"^\| `([\w.]+)` \|", page, re.MULTILINE)
    assert set(listed) == {event for path in PYTHON for event in logged(path.read_text())}
    assert listed == sorted(listed)
