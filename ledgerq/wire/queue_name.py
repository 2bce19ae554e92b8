"""The names of queues: which are taken, and which queue a job is put on that names one, or none.

A job names its queue in its request, or its payload's class does. `default` stands for the default queue of the process
that puts the job on Redis, LEDGERQ_QUEUE; so does no name at all.
"""

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict

from ledgerq.bounds import DEFAULT_QUEUE
from ledgerq.settings import FILE, PREFIX, Settings, load
from ledgerq.wire.names import MAX_QUEUE

# keys on Redis that are something else, ours or arq's; arq's constants are out of reach here, a test compares
NO_QUEUES = ("arq:job:", "arq:in-progress:", "arq:result:", "arq:retry:", "arq:abort", "ledgerq:")
NO_QUEUE_ENDS = ":health-check"
_VARIABLE = f"{PREFIX}QUEUE"


def checked_key(key: str) -> str:
    """The key of a queue on Redis, if it can be one.

    Raises:
        ValueError: it can't; the text says why.
    """
    if not 1 <= len(key) <= MAX_QUEUE:
        raise ValueError(f"must have 1 to {MAX_QUEUE} printable characters")
    if not key.isprintable() or " " in key or "|" in key or key.strip("\"'") != key:
        raise ValueError("holds a blank, a control character, a | or a quotation mark at an end")
    if key.startswith(NO_QUEUES) or key.endswith(NO_QUEUE_ENDS):
        raise ValueError("is the name of a key that ledgerq or arq use for something else")
    return key


def checked_queue(name: str) -> str:
    """A queue as a kind, a job or LEDGERQ_QUEUES names it: a key, or `default`.

    Raises:
        ValueError: it can't be one; the text says why.
    """
    if not isinstance(name, str):
        raise ValueError("must be a text")  # noqa: TRY004 - all that is wrong with a name is one error
    if "," in name:
        raise ValueError("holds a comma, which stands between two names in LEDGERQ_QUEUES")
    return checked_key(name)


def queue_key(name: str | None, default: str) -> str:
    """The key on Redis of the queue of that name, where `default` is the default queue's key."""
    return default if name is None or name == DEFAULT_QUEUE else name


def carried_to(name: str | None, kind: str, kinds: Mapping[str, str | None], default: str) -> str:
    """The key of the queue on which a staged job is put: the one that it names, or else its kind's.

    Raises:
        ValueError: what it names can't be a queue; the text says why.
    """
    return queue_key(kinds.get(kind) if name is None else checked_queue(name), default)


class _Default(Settings):
    model_config = SettingsConfigDict(env_prefix=PREFIX)

    queue: Annotated[str, AfterValidator(checked_key)] | None = Field(
        default=None, description="the default queue's key on Redis, as in arq: 1 to 200 characters"
    )


def queue_of_process() -> str | None:
    """What LEDGERQ_QUEUE says in this process, or None where it says nothing.

    Raises:
        SettingError: it is set in a way that settings can't be.
    """
    return _read(os.environ.get(_VARIABLE), os.environ.get(_VARIABLE + FILE))


@lru_cache(maxsize=8)
def _read(*given: str | None) -> str | None:
    """Read again only when the environment has changed: each staged job asks."""
    return load(_Default).queue if any(given) else None
