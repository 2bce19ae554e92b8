"""The output of the command line: tables and lines for people, with control characters escaped; JSON for programs."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

out = Console(width=None if sys.stdout.isatty() else 200)  # a pipe has no width
err = Console(stderr=True)


def printable(text: str) -> str:
    """The text on one line, each run of blanks made one space, control characters escaped."""
    return spelt_out(" ".join(text.split()))


def spelt_out(line: str) -> str:
    """The line with its control characters escaped; spaces stay."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def plain(text: str) -> Text:
    """As `printable`, for a table or a styled line: Rich reads no markup in the text."""
    return Text(printable(text))


def say(text: str) -> None:
    """Print a line for a person."""
    out.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def complain(text: str) -> None:
    """Print a line on standard error, in red."""
    err.print(printable(text), style="red", markup=False, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a value as JSON on one line, without colour; times as ISO 8601, bytes as base64."""
    print(_json(to_jsonable_python(value, bytes_mode="base64", fallback=str)))  # noqa: T201 - unwrapped and uncoloured


def print_rows(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table. If the terminal is narrow, the last column is wrapped first, so that ids stay whole."""
    *names, last = map(plain, columns)
    table = Table(*[Column(name, overflow="fold", no_wrap=True) for name in names])
    table.add_column(last, overflow="fold")
    for row in rows:
        table.add_row(*map(cell, row))
    out.print(table)


def print_attempts(attempts: Iterable[Mapping[str, object]]) -> None:
    """Print a table of the attempts that failed; nothing if there are none."""
    rows = [(each.get("attempt"), each.get("worker"), each.get("error")) for each in attempts]
    if rows:
        print_rows(("attempt", "worker", "error"), rows)


def print_fields(fields: Mapping[str, object]) -> None:
    """Print one line for each field; fields that are empty or 0 are left out."""
    shown = {name: value for name, value in fields.items() if value not in (None, "", [], {}, 0)}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        out.print(
            f"{printable(name.replace('_', ' ')):<{width}}  {cell(value)}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def cell(value: object) -> Text:
    """A value as text for a person."""
    match value:
        case None:
            return Text()
        case str():
            return Text(printable(value))
        case datetime():
            return Text(value.strftime("%Y-%m-%d %H:%M:%S UTC"))
        case _:
            return Text(_json(to_jsonable_python(value, bytes_mode="base64", fallback=str)))


def _json(value: Any) -> str:
    """JSON with unprintable characters as JSON escapes: safe for a terminal, and of the same meaning for a program."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else "".join(map(_in_json, text))


def _in_json(character: str) -> str:
    return character if character.isprintable() else json.dumps(character)[1:-1]
