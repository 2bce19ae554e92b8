"""What the command line prints: tables and lines for people that no terminal obeys, JSON for programs."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from io import TextIOWrapper
from typing import Any

from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from ledgerq.text import printable

# a pipe has no width; `:book:` in the id of a job is no picture
out = Console(width=None if sys.stdout and sys.stdout.isatty() else 200, emoji=False)
err = Console(stderr=True, emoji=False)


def require_writable() -> None:
    """Let no character stop a command after its work is done: what the streams' encoding lacks is written as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            with suppress(OSError):  # of a stream that is closed, or was opened to be read too
                stream.reconfigure(errors="backslashreplace")


def plain(text: str) -> Text:
    """The text as a rich `Text` on one line, with control characters escaped. rich reads no markup in it."""
    return Text(printable(text))


def say(text: str) -> None:
    """Print the text on standard output as one line for a person. Control characters are escaped, markup is not read."""
    out.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def complain(text: str) -> None:
    """Print the text on standard error as one red line. Control characters are escaped, markup is not read."""
    err.print(printable(text), style="red", markup=False, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print the value on standard output as one line of JSON, without colours; times are ISO 8601, bytes base64."""
    print(_json(to_jsonable_python(value, bytes_mode="base64", fallback=str)))  # noqa: T201 - unwrapped and uncoloured


def print_rows(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """A table. Where it is narrow the last column is wrapped first: an id that is cut is no use."""
    *names, last = map(plain, columns)
    table = Table(*[Column(name, overflow="fold", no_wrap=True) for name in names])
    table.add_column(last, overflow="fold")
    for row in rows:
        table.add_row(*map(cell, row))
    out.print(table)


def print_attempts(attempts: Iterable[Mapping[str, object]]) -> None:
    """What is known of each attempt that failed."""
    rows = [(each.get("attempt"), each.get("worker"), each.get("error")) for each in attempts]
    if rows:
        print_rows(("attempt", "worker", "error"), rows)


def print_fields(fields: Mapping[str, object]) -> None:
    """Print each field on a line of its own; one that is None, empty or 0 is left out, but not a `result`."""
    shown = {
        name: value
        for name, value in fields.items()
        if value not in (None, "", [], {}, 0) or (name == "result" and value is not None)
    }
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        out.print(
            f"{printable(name.replace('_', ' ')):<{width}}  {cell(value)}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def cell(value: object) -> Text:
    """A value as the text of a table's cell; empty for None."""
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
    """JSON in which what is not printable stands as an escape of JSON, so that a program reads the same."""
    takes_all = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    text = json.dumps(value, ensure_ascii=not takes_all)
    return text if text.isprintable() else "".join(map(_in_json, text))


def _in_json(character: str) -> str:
    return character if character.isprintable() else json.dumps(character)[1:-1]
