"""`ledgerq init NAME`: makes a small service, from the files in the folder `template`."""

import importlib.util
import keyword
import re
import sys
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from ledgerq.cli.output import say
from ledgerq.errors import UsageError

_NAME = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
_SURELY_THERE = {"test", "tests", "pytest"}  # to be installed for the service's test
_FILES = {  # template → file to write; "" means the template's name
    "service.py": "{module}.py",
    "test_service.py": "test_{module}.py",
    "gitignore": ".gitignore",
    "pyproject.toml": "",
    "alembic.ini": "",
    "docker-compose.yml": "",
    "migrations/env.py": "",
    "migrations/script.py.mako": "",
    "migrations/versions/0001_greetings.py": "",
}


def add_to(commands: typer.Typer) -> None:
    """Register the command."""
    commands.command()(init)


def _why_taken(module: str) -> str | None:
    """Why Python would not import the service's module by this name; None if it would."""
    if keyword.iskeyword(module):
        return "Python has this word"
    if module in sys.stdlib_module_names or module in sys.builtin_module_names:
        return "Python's library has one of this name"
    if module in _SURELY_THERE or _is_installed(module):
        return "one of this name is installed, or stands in this folder"
    return None


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # it is imported, and has no spec
        return True


def init(
    name: Annotated[str, typer.Argument(help="The name of the service and of its new folder.")],
) -> None:
    """Make a small service that runs: an app, one model, one job, one test, migrations, a compose file."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            "NAME",
            f"{name!r} is no name for a service",
            "use small letters and digits, with - or _ between",
        )
    folder, module = Path(name), name.replace("-", "_")
    if taken := _why_taken(module):
        raise UsageError(
            "NAME", f"a module can't be named {module!r}: {taken}", "choose another name"
        )
    try:
        folder.mkdir()
    except FileExistsError:
        raise UsageError("NAME", f"{folder} is there already", "choose another name") from None
    for source, target in _FILES.items():
        text = (files("ledgerq.cli") / "template" / f"{source}.txt").read_text()
        path = folder / (target or source).format(module=module)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(name=name, module=module))
    for line in (
        f"{name} is made. To run it:", f"$ cd {name}", "$ ledgerq dev", "In another terminal, with what that prints:",
        '$ ledgerq enqueue greet --payload \'{"name": "Ada"}\' --wait 20',
        "To run its test:", "$ pip install pytest pytest-asyncio", "$ python -m pytest",
    ):  # fmt: skip
        say(line)
