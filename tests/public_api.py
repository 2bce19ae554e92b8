"""Prints what a service may import, as it is written: `python -m tests.public_api > tests/data/public_api.txt`.

A test compares it with that file, so that a change of the public surface is seen in review.
"""

import ast
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from types import ModuleType
from typing import Any

MODULES = (
    "ledgerq", "ledgerq.alembic", "ledgerq.app", "ledgerq.audit", "ledgerq.bounds", "ledgerq.client", "ledgerq.columns",
    "ledgerq.embedded", "ledgerq.errors", "ledgerq.fastapi", "ledgerq.job", "ledgerq.logs", "ledgerq.outside", "ledgerq.schedule",
    "ledgerq.sessions", "ledgerq.settings", "ledgerq.staging", "ledgerq.tables", "ledgerq.testing", "ledgerq.workers",
)  # fmt: skip
_CALLED = {"__init__", "__call__"}


def lines() -> Iterator[str]:
    """One for each name; below a class, its fields and methods."""
    seen = set[int]()
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in names_of(module):
            found = getattr(module, name)
            if id(found) in seen:
                yield f"{module_name}.{name}: above"
            else:
                seen.add(id(found))
                yield from _told(f"{module_name}.{name}", found)


def names_of(module: ModuleType) -> list[str]:
    """Those of `__all__`, else what the module defines, in the order of the alphabet."""
    own = [
        name
        for name, each in vars(module).items()
        if not name.startswith("_") and getattr(each, "__module__", None) == module.__name__
    ]
    return sorted(getattr(module, "__all__", own))


def _told(place: str, found: Any) -> Iterator[str]:
    is_ours = getattr(found, "__module__", "").startswith("ledgerq")
    if not is_ours or not (inspect.isclass(found) or inspect.isfunction(found)):
        yield place
        return
    [node] = ast.parse(textwrap.dedent(inspect.getsource(found))).body
    if not isinstance(node, ast.ClassDef):
        yield f"{place}{_signature(node)}"
        return
    yield f"{place}({', '.join(map(ast.unparse, node.bases))})"
    for each in node.body:
        yield from _member(f"    {node.name}", each)


def _member(owner: str, node: ast.stmt) -> Iterator[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            if not name.startswith("_") or name in _CALLED:
                yield f"{owner}.{name}{_signature(node)}"
        case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
            if not name.startswith("_"):
                yield f"{owner}.{ast.unparse(node)}"
        case _:
            pass


def _signature(node: ast.stmt) -> str:
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef), ast.dump(node)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({ast.unparse(node.args)}){returns}"


if __name__ == "__main__":
    print("\n".join(lines()))  # noqa: T201 - it is what it is for
