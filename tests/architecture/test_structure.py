"""What must hold for the code itself."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path for part in ("ledgerq", "db", "jobs", "worker") for path in (ROOT / part).rglob("*.py")
)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_only_the_transaction_commits() -> None:
    """A second place that commits could commit half a job; the tester is where a worker dies in tests."""
    committing = {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "commit"
    }
    assert committing == {"ledgerq/database/transaction.py", "ledgerq/testing/worker.py"}


def test_only_one_place_builds_engines() -> None:
    """Pools, timeouts and TLS are decided on once."""
    building = {
        path.relative_to(ROOT).as_posix()
        for path in [*SOURCES, *(ROOT / "migrations").rglob("*.py")]
        if "create_async_engine(" in path.read_text()
    }
    assert building == {"ledgerq/database/engine.py"}


def test_nothing_unpickles() -> None:
    """Who can write to Redis must not be able to run code here."""
    for path in SOURCES:
        assert "pickle" not in {
            alias.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }, path


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_and_functions_are_short(path: Path) -> None:
    """A file is read at one sitting, a function on one screen."""
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    for function in functions(ast.parse(text)):
        assert function.end_lineno
        lines = function.end_lineno - function.lineno + 1
        documented = ast.get_docstring(function) or ""
        assert lines - len(documented.splitlines()) <= 40, function.name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_module_says_what_it_is_for(path: Path) -> None:
    """The first line of a file is its reason to exist."""
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_keys_on_redis_are_written_down_once() -> None:
    """`ledgerq.broker.keys` hands the scripts what they build keys of."""
    scripts = sorted((ROOT / "ledgerq" / "broker" / "lua").glob("*.lua"))
    assert scripts
    for path in scripts:
        assert not re.findall(r"'(?:arq|ledgerq):[^']*'", path.read_text()), path.name
