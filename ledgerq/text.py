"""Text from outside: the one place that cuts it to length, and the one that escapes it.

Errors, problems, tracebacks, results, ids: for the log, the dead letter, Redis and the terminal. Nothing here
raises, whatever it is given: an exception whose `__str__` fails is described too.
"""

import traceback
from collections.abc import Iterator
from itertools import islice
from typing import Any

from pydantic_core import to_json

MAX_ERROR = 4_000  # characters that are kept of an error
MAX_TRACEBACK = 20_000
MAX_SHOWN = 1_000  # characters of a result in a log line
_FRAMES = 50  # of one exception in a traceback


def cut(text: str, limit: int) -> str:
    """The text, or its beginning and how long it was."""
    if len(text) <= limit:
        return text
    left_out = f"… ({len(text):,} characters)"
    return text[: max(0, limit - len(left_out))] + left_out


def cut_end(text: str, limit: int) -> str:
    """The same for what matters at its end: a traceback."""
    if len(text) <= limit:
        return text
    left_out = f"({len(text):,} characters) …\n"
    return left_out + text[-max(1, limit - len(left_out)) :]


def storable(text: str) -> str:
    """What PostgreSQL can hold of a text: neither NUL nor half a character."""
    return text.replace("\x00", "\\x00").encode(errors="backslashreplace").decode()


def spelt_out(line: str) -> str:
    """The line with its control characters spelt out, its spaces kept: no terminal obeys it."""
    return line if line.isprintable() else "".join(map(_spelt_out, line))


def printable(text: str) -> str:
    """One line that no terminal obeys."""
    return spelt_out(" ".join(text.split()))


def shown(value: Any, limit: int = MAX_SHOWN) -> Any:
    """A result for a log line: itself if it is short, else the beginning of its JSON."""
    try:
        encoded = to_json(value, fallback=str)
    except Exception as error:  # noqa: BLE001 - a log line is no reason to fail
        return f"<{type(error).__name__}>"
    return value if len(encoded) <= limit else cut(encoded.decode(errors="replace"), limit)


def described(error: BaseException, limit: int = MAX_ERROR) -> str:
    """Class and message; of a group also those of the exceptions in it."""
    inner = [each for each in leaves(error) if each is not error]
    told = _one(error, limit)
    if is_group(error):
        told = "; ".join([told, *(_one(each, limit) for each in inner)])
    return cut(storable(told), limit)


def first_line(error: BaseException) -> str:
    """What a server or a driver said, without the rest of it; the class, if it said nothing."""
    said = str(getattr(error, "orig", None) or error)
    return said.splitlines()[0] if said else type(error).__name__


def one_line(error: BaseException, limit: int = MAX_ERROR) -> str:
    """The same on one line, without control characters."""
    return printable(described(error, limit))


def traceback_of(error: BaseException, limit: int = MAX_TRACEBACK) -> str:
    """The traceback with its causes; its end is what is kept of a long one."""
    try:
        lines = traceback.format_exception(error, limit=-_FRAMES)
    except BaseException as failure:  # noqa: BLE001 - the error's own code runs here
        lines = [f"{_one(error, limit)}\n(no traceback: {type(failure).__name__})\n"]
    return cut_end(storable("".join(lines)), limit)


def _one(error: BaseException, limit: int) -> str:
    name = type.__dict__["__name__"].__get__(type(error))
    try:
        text = str(getattr(error, "orig", None) or error)
        return cut(f"{name}: {text}" if text else name, limit)
    except BaseException as failure:  # noqa: BLE001 - as above
        return f"{name}: (its text can't be had: {type(failure).__name__})"


def _spelt_out(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]


_DEEPEST, _MOST = 20, 20  # groups within groups, and exceptions, that are looked at


def leaves(error: BaseException) -> list[BaseException]:
    """The exceptions in a group and its groups, the first of them; of an error that is no group, itself."""
    return list(islice(_walk(error, _DEEPEST), _MOST)) or [error]


def is_group(error: BaseException) -> bool:
    """By its class alone: an exception may lie when it is asked."""
    return issubclass(type(error), BaseExceptionGroup)


def _walk(error: BaseException, depth: int) -> Iterator[BaseException]:
    if is_group(error) and depth:
        for each in BaseExceptionGroup.exceptions.__get__(error):
            yield from _walk(each, depth - 1)
    else:
        yield error
