"""Finds the `App` of a command, by `--app`, LEDGERQ_APP, or `[tool.ledgerq] app` in pyproject.toml."""

import importlib
import os
import stat
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from ledgerq.app import App
from ledgerq.config import CommandSettings
from ledgerq.database.engine import NO_TABLES, Tables
from ledgerq.errors import UsageError
from ledgerq.settings import FILE, load

VARIABLE = "LEDGERQ_APP"
_CURE = "name it as module:attribute, as in shop.ledger:app"


_chosen: list[str] = []  # by the option, in this process


def _choose(name: str | None) -> None:
    """Put the name of `--app` into LEDGERQ_APP, so that processes which this one starts find the same application."""
    if name is not None:
        _chosen.append(name)
        os.environ[VARIABLE] = name
        os.environ.pop(f"{VARIABLE}{FILE}", None)


AppName = Annotated[
    str | None,
    typer.Option(
        "--app",
        callback=_choose,
        metavar="MODULE:ATTRIBUTE",
        help="Your App; else LEDGERQ_APP, or \\[tool.ledgerq] app in pyproject.toml.",
    ),
]


def find_app() -> App | None:
    """The application that --app, LEDGERQ_APP or else pyproject.toml names; None if none does.

    Its modules are also looked for in the current folder, or in that of the pyproject.toml which names it.

    Raises:
        UsageError: the named App can't be imported, or is no App; the text says which part of the name is wrong.
        SettingError: LEDGERQ_APP is not valid, for example begins with a quotation mark.
    """
    name = load(CommandSettings).app
    source = "--app" if name in _chosen else VARIABLE
    folder = _current_folder()
    if not name and folder:
        name, folder, source = _in_pyproject(folder)
    if not name:
        return None
    if folder and str(folder) not in sys.path:
        sys.path.append(str(folder))  # at the end: an installed module of the same name comes first
    return _load(name, source)


def require_app() -> App:
    """The application, for commands that need one.

    Raises:
        UsageError: no application is named, or it can't be imported.
    """
    app = find_app()
    if app is None:
        raise UsageError("--app", f"is missing, and so is {VARIABLE}", _CURE)
    return app


def tables_of_app() -> Tables:
    """The tables of the application; `NO_TABLES` if no application is named."""
    app = find_app()
    return app.tables if app else NO_TABLES


def queues_of_app() -> dict[str, str | None]:
    """Kind → name of its queue, for all kinds of the application; None: the default queue. Empty if no application is named."""
    app = find_app()
    return app.registry().queues if app else {}


def alembic_ini() -> Path | None:
    """The alembic.ini of the application, as `[tool.ledgerq] alembic` in the nearest pyproject.toml names it; else None.

    Raises:
        UsageError: there is no such file; another user may write the pyproject.toml, and so run code as this user; or the
            pyproject.toml names another application than `--app` or LEDGERQ_APP. In the last case None is returned if the
            application has `App(migrations=)`.
    """
    folder = _current_folder()
    path, ours = _nearest(folder) if folder else (None, {})
    named = str(ours.get("alembic", ""))
    if path is None or not named:
        return None
    for trusted in (path, path.parent):
        _require_trusted(trusted)
    source, ini = f"{path}: [tool.ledgerq] alembic", path.parent / named
    app, theirs = load(CommandSettings).app, ours.get("app")
    if app and theirs and app != theirs:
        if tables_of_app().migrations is not None:
            return None
        raise UsageError(
            source,
            f"is the history of {str(theirs)!r}, not of {app!r}",
            "start the command below a pyproject.toml that names the application, or give it App(migrations=)",
        )
    if not ini.is_file():
        raise UsageError(source, f"there is no file {ini}", "name your alembic.ini")
    return ini


def _current_folder() -> Path | None:
    try:
        return Path.cwd()
    except FileNotFoundError:  # it was deleted
        return None


def _in_pyproject(start: Path) -> tuple[str, Path, str]:
    """The name in the nearest pyproject.toml about ledgerq, its folder and its source; from `start` upwards.

    Raises:
        UsageError: the file can't be read; or another user may write it, and so run code as this user.
    """
    path, ours = _nearest(start)
    named = str(ours.get("app", ""))
    if path is None or not named:
        return "", start, ""
    for each in (path, path.parent):
        _require_trusted(each)
    return named, path.parent, f"{path}: [tool.ledgerq] app"


def _nearest(start: Path) -> tuple[Path | None, dict[str, Any]]:
    """The nearest pyproject.toml with a table `[tool.ledgerq]`, and the table. What is above it is about another project.

    Raises:
        UsageError: the file in `start` can't be read.
    """
    for folder in (start, *start.parents):
        path = folder / "pyproject.toml"
        try:
            ours = _our_table(tomllib.loads(path.read_text(encoding="utf-8-sig")))
        except (OSError, ValueError) as error:
            if folder == start and path.exists():
                raise UsageError(str(path), f"can't be read: {error}", "mend it") from None
            continue
        if ours:
            return path, ours
    return None, {}


def _our_table(read: dict[str, Any]) -> dict[str, Any]:
    table = read.get("tool", {})
    ours = table.get("ledgerq", {}) if isinstance(table, dict) else {}
    return ours if isinstance(ours, dict) else {}


def _require_trusted(path: Path) -> None:
    found = path.stat()
    if found.st_uid not in {0, os.geteuid()} or found.st_mode & stat.S_IWOTH:
        raise UsageError(
            str(path),
            "belongs to another user, or others may write it",
            f"name the application by {VARIABLE}",
        )


def _where_to_start(module: str) -> str:
    top, folder = module.partition(".")[0], _current_folder()
    for each in (folder, *folder.parents) if folder else ():
        if (each / "src" / top).is_dir() or (each / "src" / f"{top}.py").is_file():
            return f"it stands in {each / 'src'}: install the project, as in pip install -e ., or start the command there"
    return "start the command in its folder; what is installed comes before it"


def _load(name: str, source: str) -> App:
    module_name, _, attribute = name.partition(":")
    parts = (*module_name.split("."), *attribute.split("."))
    if not all(part.isidentifier() for part in parts):
        raise UsageError(source, f"{name!r} does not name a module and an attribute", _CURE)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the service's own code imports a module that does not exist
        top = sys.modules.get(module_name.partition(".")[0])
        other = f" in {top.__file__}" if top and top.__file__ else ""
        raise UsageError(
            source,
            f"{name!r}: there is no module {error.name!r}{other}",
            _where_to_start(module_name),
        ) from None
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UsageError(source, f"{name!r}: {module_name} has no {part!r}", _CURE)
        found = getattr(found, part)
    if not isinstance(found, App):
        kind = type(found).__name__
        raise UsageError(source, f"{name!r} is a {kind}, not an App", "name the App itself")
    return found
