"""Each public name has a docstring with an example, and each example fits the types of a service."""

import importlib
import inspect
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

import ledgerq
from tests.acceptance.processes import ROOT
from tests.public_api import MODULES, names_of

# what the examples use without saying where it is from
SERVICE = """
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI
from ledgerq import *
from ledgerq import audit, columns, embedded, sessions, tables
from ledgerq.bounds import cursor, require_limit
from ledgerq.client import results
from ledgerq.errors import AlreadyExists
from ledgerq.fastapi import get_session
from ledgerq.logs import configure_logging
from ledgerq.sessions import BulkUpdate, LedgerqSession, lock_rows
from ledgerq.settings import Settings, load
from ledgerq.testing import JobTester, OutsideCall
from ledgerq.workers import load_config, worker_settings
from pydantic import Field
from sqlmodel import SQLModel, col, select
from tests.typed_service import *

async def fetch(page: int) -> list[str]:
    return []

async def add_rows(context: JobContext[Clients], rows: list[str]) -> None: ...

async def example_{n}(
    api: FastAPI, card: Card, client: JobClient, context: JobContext[Clients], job_tester: JobTester, order: Order,
    orders: Sequence[Order], origin: Origin, outside: Outside[Clients], send: SendInvoice, session: LedgerqSession, {sessions}
) -> None:
{example}
"""
WITHOUT_TEXT = {"Sessions"}  # an alias of SQLAlchemy's `async_sessionmaker`


def public() -> Iterator[tuple[str, Any]]:
    """Each name of `ledgerq`, each public module, and whatever else in those has an example."""
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        yield module_name, module
        for name in names_of(module):
            yield f"{module_name}.{name}", getattr(module, name)
            if inspect.isclass(getattr(module, name)):
                for method, found in vars(getattr(module, name)).items():
                    if inspect.isfunction(found):
                        yield f"{module_name}.{name}.{method}", found


def examples_of(found: Any) -> list[str]:
    text = inspect.cleandoc(getattr(found, "__doc__", None) or "")
    blocks = MarkdownIt("commonmark").parse(text)
    return [each.content for each in blocks if each.type == "fence" and each.info == "python"]


@pytest.mark.parametrize(
    "name", [*MODULES, *(f"ledgerq.{each}" for each in ledgerq.__all__ if each not in WITHOUT_TEXT)]
)
def test_a_public_name_has_an_example(name: str) -> None:
    """In its docstring, where an editor shows it."""
    assert examples_of(dict(public())[name])


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder with one module for each example."""
    for n, (example, name) in enumerate(
        {each: name for name, found in public() for each in examples_of(found)}.items()
    ):
        module = SERVICE.format(
            n=n,
            sessions=""
            if "sessions." in example.replace("database.sessions", "")
            else "sessions: Sessions,",
            example=textwrap.indent(example, "    "),
        )
        (tmp_path / f"example_{n:03}.py").write_text(f"# {name}\n{module}")
    return tmp_path


@pytest.mark.timeout(240)
def test_examples_pass_the_strict_mode_of_mypy(written: Path) -> None:
    """As parts of the service in tests/typed_service.py."""
    said = _run("mypy", "--no-error-summary", *map(str, sorted(written.glob("*.py"))))
    assert said == "", said


@pytest.mark.timeout(240)
def test_examples_pass_the_strict_mode_of_pyright(written: Path) -> None:
    """As parts of the service in tests/typed_service.py, which `make check` looks at."""
    settings = {
        "include": ["."],
        "extraPaths": [str(ROOT)],
        "typeCheckingMode": "strict",
        "reportWildcardImportFromLibrary": False,
        "reportUnusedVariable": False,
        "reportUnusedFunction": False,
        "reportUnusedClass": False,
        "reportUnusedImport": False,
    }
    (written / "pyrightconfig.json").write_text(json.dumps(settings))
    said = _run("basedpyright", "--project", str(written), "--pythonpath", sys.executable)
    assert re.match(r"0 errors", said), said


def _run(program: str, *arguments: str) -> str:
    command = [str(Path(sys.executable).with_name(program)), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout


def test_the_typed_service_uses_every_public_name() -> None:
    """So the type checkers see each of them in use."""
    text = (ROOT / "tests" / "typed_service.py").read_text()
    body = text.partition("ORDER = ")[2]
    assert [name for name in ledgerq.__all__ if not re.search(rf"\b{name}\b", body)] == []
