"""Cuts text from outside to length and escapes it, before it goes to the log, a dead letter, Redis or the terminal.

Such text is errors, problems, tracebacks, results and ids. No function here raises, not even for an exception whose
`__str__` fails.
"""

import traceback
from collections.abc import Iterator
from itertools import islice
from typing import Any

from pydantic_core import to_json

MAX_ERROR = 4_000  # characters that are kept of an error
MAX_TRACEBACK = 20_000
MAX_SHOWN = 1_000  # characters of a result in a log line
_FRAMES = 50  # frames that a traceback shows of one exception


def cut(text: str, limit: int) -> str:
    """The text; if it is longer than `limit` characters, its beginning and a note of its length."""
    if len(text) <= limit:
        return text
    left_out = f"… ({len(text):,} characters)"
    return text[: max(0, limit - len(left_out))] + left_out


def cut_end(text: str, limit: int) -> str:
    """The text; if it is longer than `limit` characters, a note of its length and its end. For tracebacks."""
    if len(text) <= limit:
        return text
    left_out = f"({len(text):,} characters) …\n"
    return left_out + text[-max(1, limit - len(left_out)) :]


def storable(text: str) -> str:
    r"""The text with NUL as `\x00` and each surrogate as `\ud800` or the like, since PostgreSQL can't store them."""
    return text.replace("\x00", "\\x00").encode(errors="backslashreplace").decode()


def spelt_out(line: str) -> str:
    """The line with its control characters escaped, tabs and line ends too, so that a terminal does not act on them."""
    return line if line.isprintable() else "".join(map(_spelt_out, line))


def printable(text: str) -> str:
    """The text on one line: spaces, tabs and line ends in a row become one space, control characters are escaped."""
    return spelt_out(" ".join(text.split()))


def shown(value: Any, limit: int = MAX_SHOWN) -> Any:
    """A result for a log line: itself if it is short, else the beginning of its JSON."""
    try:
        encoded = to_json(value, fallback=str)
    except Exception as error:  # noqa: BLE001 - a log line is no reason to fail
        return f"<{type(error).__name__}>"
    return value if len(encoded) <= limit else cut(encoded.decode(errors="replace"), limit)


def described(error: BaseException, limit: int = MAX_ERROR) -> str:
    """An error's class and message; for an exception group, also those of the exceptions in it."""
    inner = [each for each in leaves(error) if each is not error]
    told = _one(error, limit)
    if is_group(error):
        told = "; ".join([told, *(_one(each, limit) for each in inner)])
    return cut(storable(told), limit)


def first_line(error: BaseException) -> str:
    """The first line of the message: of the driver's error, if the error has one, else its own. The class's name if empty."""
    said = str(getattr(error, "orig", None) or error)
    return said.splitlines()[0] if said else type(error).__name__


def one_line(error: BaseException, limit: int = MAX_ERROR) -> str:
    """An error's class and message (of a group, also those in it) on one line, with control characters escaped."""
    return printable(described(error, limit))


def traceback_of(error: BaseException, limit: int = MAX_TRACEBACK) -> str:
    """The traceback with its causes; of one longer than `limit` characters, its end."""
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


_DEEPEST, _MOST = 20, 20  # levels of nested groups, and exceptions in all, that are read


def leaves(error: BaseException) -> list[BaseException]:
    """The first 20 exceptions in a group and its nested groups; for an error that is no group, the error itself."""
    return list(islice(_walk(error, _DEEPEST), _MOST)) or [error]


def is_group(error: BaseException) -> bool:
    """True for an exception group. Asks the class, since an exception can fake its own `__class__`."""
    return issubclass(type(error), BaseExceptionGroup)


def _walk(error: BaseException, depth: int) -> Iterator[BaseException]:
    if is_group(error) and depth:
        for each in BaseExceptionGroup.exceptions.__get__(error):
            yield from _walk(each, depth - 1)
    else:
        yield error
