"""Finds the application that a command is about: `--app`, LEDGERQ_APP, or `[tool.ledgerq] app` in pyproject.toml."""

import importlib
import os
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from ledgerq.app import App
from ledgerq.database.engine import NO_TABLES, Tables
from ledgerq.errors import SettingError, UsageError

VARIABLE = "LEDGERQ_APP"
_CURE = "name it as module:attribute, as in shop.ledger:app"


def _choose(name: str | None) -> None:
    """Processes that this one starts find the same application."""
    if name is not None:
        os.environ[VARIABLE] = name


AppName = Annotated[
    str | None,
    typer.Option(
        "--app",
        callback=_choose,
        metavar="MODULE:ATTRIBUTE",
        help="Your App; else LEDGERQ_APP, or [tool.ledgerq] app in pyproject.toml.",
    ),
]


def find_app() -> App | None:
    """The application, if one is named; it is imported from the folder that names it.

    Raises:
        UsageError: what is named can't be imported, or is no App; the text says which part of the name is wrong.
    """
    name, folder, source = os.environ.get(VARIABLE, "").strip(), Path.cwd(), VARIABLE
    if not name:
        name, folder, source = _in_pyproject(folder)
    if not name:
        return None
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return _load(name, source)


def require_app() -> App:
    """The application.

    Raises:
        UsageError: none is named, or it can't be imported.
    """
    app = find_app()
    if app is None:
        raise UsageError("--app", f"is missing, and so is {VARIABLE}", _CURE)
    return app


def tables_of_app() -> Tables:
    """The tables of the application; none where no application is named."""
    app = find_app()
    return app.tables if app else NO_TABLES


def _in_pyproject(start: Path) -> tuple[str, Path, str]:
    """The name in the nearest pyproject.toml that has one, from here upwards."""
    for folder in (start, *start.parents):
        path = folder / "pyproject.toml"
        try:
            read = tomllib.loads(path.read_text())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise UsageError(str(path), f"can't be read: {error}", "mend it") from None
        named = read.get("tool", {}).get("ledgerq", {}).get("app", "")
        if named:
            return str(named), folder, f"{path}: [tool.ledgerq] app"
    return "", start, ""


def _load(name: str, source: str) -> App:
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise UsageError(source, f"{name!r} does not name a module and an attribute", _CURE)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # a module of theirs imports one that is not there
        raise UsageError(
            source,
            f"{name!r}: there is no module {error.name!r}",
            "start the command in its folder",
        ) from None
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UsageError(source, f"{name!r}: {module_name} has no {part!r}", _CURE)
        found = getattr(found, part)
    if not isinstance(found, App):
        kind = type(found).__name__
        raise SettingError(source, f"{name!r} is a {kind}, not an App", "name the App itself")
    return found
