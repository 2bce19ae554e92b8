"""What a service may import is written down, with signatures: a change of it is seen."""

import ast
from pathlib import Path

import pytest

from tests.public_api import MODULES, lines

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = ROOT / "tests" / "data" / "public_api.txt"


def test_the_public_names_and_signatures_are_those_in_the_file() -> None:
    """`python -m tests.public_api > tests/data/public_api.txt` writes down a change that is meant."""
    assert list(lines()) == WRITTEN.read_text().splitlines()


@pytest.mark.parametrize("folder", ["db", "jobs", "worker", "examples"])
def test_an_application_imports_public_modules_only(folder: str) -> None:
    """Ours, and the examples: what they need, others need."""
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [each.name for each in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                if name.partition(".")[0] == "ledgerq":
                    assert name in MODULES, f"{path}: {name}"
