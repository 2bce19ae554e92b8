"""Options that several commands share, and their checks."""

import getpass
import os
from collections.abc import Iterable
from typing import Annotated

import typer
from pydantic import ValidationError

from ledgerq.cli.find_app import require_app
from ledgerq.errors import InvalidPayload, Undecodable, UsageError
from ledgerq.settings import FILE
from ledgerq.wire.envelope import check_job_id
from ledgerq.wire.payload import Payload
from ledgerq.wire.queue_name import checked_queue

QUEUES = "LEDGERQ_QUEUES"

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")]
Actor = Annotated[
    str | None, typer.Option(show_default="cli:<you>", help="Who asks, for the audit log.")
]
Because = Annotated[str, typer.Option(help="Why, for the audit log.")]

OnQueue = Annotated[
    str | None,
    typer.Option("--queue", metavar="NAME", help="The queue, if it is not the kind's own."),
]


def _serve(names: list[str] | None) -> None:
    """Put the names of `--queue` into LEDGERQ_QUEUES, so that processes which this one starts serve them too."""
    if not names:
        return
    for n, name in enumerate(names):
        try:
            checked_queue(name)
        except ValueError as error:
            raise UsageError("--queue", f"{name!r} {error}", "name a queue") from None
        if name in names[:n]:
            raise UsageError("--queue", f"{name!r} is given twice", "give each queue once")
    os.environ[QUEUES] = ",".join(names)
    os.environ.pop(f"{QUEUES}{FILE}", None)


Queues = Annotated[
    list[str] | None,
    typer.Option(
        "--queue",
        callback=_serve,
        metavar="NAME",
        help="A queue to serve; may be repeated. `default` is LEDGERQ_QUEUE. Without it: LEDGERQ_QUEUES.",
    ),
]

NO_REASON = "none given"
_MAX_USER = 100


def for_the_log(actor: str | None, because: str) -> dict[str, str]:
    """The actor and the reason, for the audit log. If `actor` is None, it is `cli:` and the system's user."""
    return {"actor": f"cli:{_user()}" if actor is None else actor, "reason": because}


def _user() -> str:
    """The name of the user who runs the command, or `uid-` and its number if the audit log can't keep the name."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container may run as a user without a name
        name = ""
    fit = name.isprintable() and 0 < len(name.strip()) <= len(name) <= _MAX_USER
    return name if fit else f"uid-{os.getuid()}"


def checked_payload(kind: str, payload: str) -> Payload:
    """The payload object of a kind, from JSON text.

    Raises:
        UnknownKind: the application has no such kind.
        InvalidPayload: it is no JSON, or breaks the kind's rules; lists the invalid fields.
    """
    model: type[Payload] = require_app().registry().kind(kind).payload
    try:
        return model.model_validate_json(payload)
    except ValidationError as error:
        raise InvalidPayload.from_validation(error) from None


def checked_ids(job_ids: Iterable[str]) -> list[str]:
    """The ids, each once, if all are valid for a job.

    Raises:
        UsageError: an id is empty, too long, or not printable.
    """
    distinct = list(dict.fromkeys(job_ids))
    try:
        for job_id in distinct:
            check_job_id(job_id)
    except Undecodable as error:
        [wrong] = error.problems
        raise UsageError(wrong.field, wrong.problem, "name the id of a job") from None
    return distinct
