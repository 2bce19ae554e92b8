"""The names of queues: which names are valid, and on which queue a job is put.

The request of a job names its queue, or else the payload class does. A job for the queue `default`, or for none, goes
to the default queue of the process that puts the job on Redis: LEDGERQ_QUEUE.
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

# other keys of arq and ledgerq on Redis; this module may not import arq's constants, so a test compares them
NO_QUEUES = ("arq:job:", "arq:in-progress:", "arq:result:", "arq:retry:", "arq:abort", "ledgerq:")
NO_QUEUE_ENDS = ":health-check"
_VARIABLE = f"{PREFIX}QUEUE"


def checked_key(key: str) -> str:
    """Answer with `key` if it is valid as the key of a queue on Redis.

    Raises:
        ValueError: the key is not valid; the text says why.
    """
    if not 1 <= len(key) <= MAX_QUEUE:
        raise ValueError(f"must have 1 to {MAX_QUEUE} printable characters")
    if not key.isprintable() or " " in key or "|" in key or key.strip("\"'") != key:
        raise ValueError("holds a blank, a control character, a | or a quotation mark at an end")
    if key.startswith(NO_QUEUES) or key.endswith(NO_QUEUE_ENDS):
        raise ValueError("is the name of a key that ledgerq or arq use for something else")
    return key


def checked_queue(name: str) -> str:
    """Answer with `name` if it is valid as a queue's name: a key on Redis, or `default`.

    Raises:
        ValueError: the name is not valid; the text says why.
    """
    if not isinstance(name, str):
        raise ValueError("must be a text")  # noqa: TRY004 - all that is wrong with a name is one error
    if "," in name:
        raise ValueError("holds a comma, which stands between two names in LEDGERQ_QUEUES")
    return checked_key(name)


def queue_key(name: str | None, default: str) -> str:
    """The key on Redis of the queue `name`. None and "default" name the default queue, whose key is `default`."""
    return default if name is None or name == DEFAULT_QUEUE else name


def carried_to(name: str | None, kind: str, kinds: Mapping[str, str | None], default: str) -> str:
    """The key of the queue on which a staged job is put.

    Args:
        name: the queue that the job names, or None: then the queue of its kind.
        kind: the job's kind.
        kinds: kind → queue, None for the default queue.
        default: the key of the default queue.

    Raises:
        ValueError: `name` is not valid for a queue; the text says why.
    """
    return queue_key(kinds.get(kind) if name is None else checked_queue(name), default)


class _Default(Settings):
    model_config = SettingsConfigDict(env_prefix=PREFIX)

    queue: Annotated[str, AfterValidator(checked_key)] | None = Field(
        default=None, description="the default queue's key on Redis, as in arq: 1 to 200 characters"
    )


def queue_of_process() -> str | None:
    """The key of the default queue that LEDGERQ_QUEUE or LEDGERQ_QUEUE_FILE sets; None if neither is set.

    Raises:
        SettingError: the value is not the key of a queue, or the file can't be used.
    """
    return _read(os.environ.get(_VARIABLE), os.environ.get(_VARIABLE + FILE))


@lru_cache(maxsize=8)
def _read(*given: str | None) -> str | None:
    """Read the setting, only once for each value of the variables: each staged job asks for it."""
    return load(_Default).queue if any(given) else None
