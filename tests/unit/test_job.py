"""`@job` reads a handler's annotations, and refuses at import what cannot be a job, with the cure."""

import sys
import typing
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Lock
from types import new_class
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from ledgerq import App, DefinitionError, JobContext, Kind, Payload, job
from ledgerq.errors import SettingError
from ledgerq.wire.payload import result_type


class Close(Payload[int], kind="close"):
    """A payload of a job that answers with a number."""

    order_id: UUID


class Anything(Payload, kind="anything"):
    """A payload that promises nothing."""


class Nameless(Payload[int]):
    """A payload that names no kind."""


class Answer(BaseModel):
    """A result."""

    at: datetime


@dataclass
class Pair:
    """A result."""

    left: int
    right: set[UUID]


@job
async def close(context: JobContext, order: Close) -> int:
    """Answers with a number."""
    return order.order_id.int


def test_a_job_is_a_kind_that_can_be_called() -> None:
    """Its payload is read off the annotations; nothing is registered anywhere."""
    assert (close.payload, close.name, close.timeout, close.queue) == (Close, "close", None, None)
    assert not close.is_batchable
    assert list(App(jobs=[], forget_ended_jobs=False).jobs) == []


async def test_a_job_is_called_as_its_function_is() -> None:
    """For tests without a worker."""
    order = Close(order_id=UUID(int=7))
    context: JobContext = JobContext(None, None, datetime.now(UTC))  # type: ignore[arg-type]
    assert await close(context, order) == 7


def test_options_are_those_of_the_kind() -> None:
    """With the queue known to producers, who import the payload alone."""

    class Charge(Payload[None], kind="charge"):
        """A payload."""

    @job(timeout=5, shares_commit=True, queue="billing")
    async def charge(context: JobContext[str], payload: Charge) -> None:
        """Answers nothing."""

    assert (charge.timeout, charge.is_batchable, charge.queue) == (5, True, "billing")
    assert Charge.queue == "billing"


def test_a_payload_names_its_queue_itself() -> None:
    """A job that names another one is refused."""

    class Mail(Payload[None], kind="mail", queue="mails"):
        """A payload."""

    async def send(context: JobContext, mail: Mail) -> None:
        """Answers nothing."""

    assert job(send).queue == "mails"
    with pytest.raises(DefinitionError, match=r"Mail\(queue=\): is 'mails', and its job says 'x'"):
        job(queue="x")(send)


def test_what_a_payload_promises_is_known() -> None:
    """To clients, which convert the answer."""
    assert result_type(Close) is int
    assert result_type(Anything) is Any

    class Closer(Close, kind="closer"):
        """A payload that is made of another one."""

    assert (result_type(Closer), Closer.kind, Close.kind) == (int, "closer", "close")


@pytest.mark.parametrize("answer", [None, int, str, list[UUID], Answer, Pair, dict[str, Any], Any])
def test_results_that_json_carries_are_taken(answer: Any) -> None:
    """Of any such type."""

    async def handler(context: JobContext, payload: Anything) -> Any:
        """Answers as annotated below."""

    handler.__annotations__["return"] = answer
    assert job(handler).payload is Anything


async def _no_result(context: JobContext, payload: Close):  # type: ignore[no-untyped-def]
    """The case."""


async def _no_payload(context: JobContext, payload) -> int:  # type: ignore[no-untyped-def]
    return 1


async def _no_context(context, payload: Close) -> int:  # type: ignore[no-untyped-def]
    return 1


async def _other_payload(context: JobContext, payload: Answer) -> int:
    return 1


async def _nameless(context: JobContext, payload: Nameless) -> int:
    return 1


async def _bare(context: JobContext, payload: Payload) -> int:
    return 1


async def _other_result(context: JobContext, payload: Close) -> str:
    return ""


async def _no_json(context: JobContext, payload: Anything) -> Callable[[], int]:
    return int


async def _no_schema(context: JobContext, payload: Anything) -> Lock:
    return Lock()


async def _one_argument(context: JobContext) -> int:
    return 1


async def _three_arguments(context: JobContext, payload: Close, other: int) -> int:
    return 1


async def _not_there(context: JobContext, payload: "NotThere") -> int:  # type: ignore[name-defined] # noqa: F821
    return 1


def _plain(context: JobContext, payload: Close) -> int:
    return 1


class _CallsItself:
    async def __call__(self, context: JobContext, payload: Close) -> int:
        return 1


async def _yields(context: JobContext, payload: Close) -> AsyncIterator[int]:
    yield 1


async def _by_name(*, context: JobContext, payload: Close) -> int:
    return 1


async def _no_syntax(context: JobContext, payload: Close) -> int:
    return 1


_no_syntax.__annotations__["payload"] = "Close["


async def _no_attribute(context: JobContext, payload: "typing.Nope") -> int:  # type: ignore[name-defined]
    return 1


class _OldTypedDict(typing.TypedDict):
    a: int


async def _old_typed_dict(context: JobContext, payload: Anything) -> _OldTypedDict:
    return {"a": 1}


REFUSED: list[tuple[Any, str]] = [
    (_no_result, "does not say what it answers; annotate it"),
    (_no_payload, r"_no_payload\(payload\): must be annotated with a class of Payload"),
    (_no_context, r"_no_context\(context\): must be annotated as JobContext"),
    (_other_payload, r"_other_payload\(payload\): must be annotated with a class of Payload"),
    (_nameless, r"Nameless: names no kind; write: class Nameless\(Payload\[…\], kind=\"…\"\)"),
    (_bare, "must be annotated with a class of Payload"),
    (_other_result, "its payload promises int; let Payload"),
    (_no_json, "JSON can't carry such a result; answer with"),
    (_no_schema, "JSON can't carry such a result; answer with"),
    (_one_argument, "must take two arguments, a context and a payload"),
    (_three_arguments, "must take two arguments, a context and a payload"),
    (_not_there, "an annotation names NotThere, which is not there"),
    (_plain, "only where the job says so; write async def"),
    (Close, "is a class; write an async def that calls it"),
    (partial(_three_arguments, other=1), "is a functools.partial"),
    (_CallsItself(), "is an object with __call__"),
    (_yields, "is an async generator"),
    (_by_name, r"_by_name\(context\): can be given by its name only"),
    (_no_syntax, "an annotation can't be read: SyntaxError"),
    (_no_attribute, "an annotation can't be read: AttributeError"),
    (close, "close: is a job already; put @job above the function once"),
    (7, "is no function; put @job above an async def"),
]


if sys.version_info < (3, 12):
    REFUSED.append((_old_typed_dict, "take TypedDict from typing_extensions"))


@pytest.mark.parametrize(
    ("handler", "problem"),
    REFUSED,
    ids=[getattr(h, "__name__", type(h).__name__) for h, _ in REFUSED],
)
def test_what_cannot_be_a_job_is_refused_when_it_is_imported(handler: Any, problem: str) -> None:
    """With the function or argument, the problem and the cure."""
    with pytest.raises(DefinitionError, match=problem):
        job(handler)


def test_a_handler_for_many_is_one_of_the_same_kind() -> None:
    """Else it is refused; and there is one at most."""

    class Many(Payload[int], kind="many"):
        """A payload."""

    @job
    async def one(context: JobContext, payload: Many) -> int:
        return 1

    async def of_others(contexts: Sequence[JobContext], payloads: Sequence[Close]) -> list[int]:
        return []

    async def of_one(context: JobContext, payload: Many) -> list[int]:
        return []

    async def of_many(contexts: Sequence[JobContext], payloads: list[Many]) -> list[int]:
        return []

    for wrong, problem in ((of_others, r"Sequence\[Many\]"), (of_one, r"Sequence\[JobContext\]")):
        with pytest.raises(DefinitionError, match=problem):
            one.many(wrong)  # type: ignore[arg-type]
    assert one.many(of_many) is of_many  # type: ignore[arg-type]
    assert one.is_batchable
    with pytest.raises(DefinitionError, match="there is a function for many already"):
        one.many(of_many)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ({"kind": ""}, r"Odd\(kind=\): must have 1 to 100 printable characters"),
        ({"kind": "x" * 101}, r"Odd\(kind=\)"),
        ({"kind": "a\x1bb"}, r"Odd\(kind=\)"),
        ({"kind": 7}, r"Odd\(kind=\)"),
        ({"kind": "cron:x"}, "begins with cron:"),
        ({"kind": "x", "queue": ""}, r"Odd\(queue=\): must have 1 to 200 printable characters"),
        ({"kind": "x", "queue": "x" * 201}, r"Odd\(queue=\)"),
        (
            {"kind": "x", "keep_result": -1},
            r"Odd\(keep_result=\): must be whole seconds, 0 or more",
        ),
        ({"kind": "x", "keep_result": False}, r"Odd\(keep_result=\)"),
        ({"kind": "x", "keep_result": 1.5}, r"Odd\(keep_result=\)"),
    ],
)
def test_a_kind_that_cannot_travel_is_refused(words: dict[str, Any], problem: str) -> None:
    """When the payload's class is made."""
    with pytest.raises(DefinitionError, match=problem):
        new_class("Odd", (Payload,), words, lambda made: made.update(__qualname__="Odd"))


def test_a_field_has_no_name_that_a_payload_has_itself() -> None:
    """It would stand in the way of the class's own word."""
    with pytest.raises(DefinitionError, match=r"queue: is a field, .*give the field another name"):

        class Odd(Payload, kind="odd"):
            """A payload."""

            queue: str  # type: ignore[misc]


def test_an_app_takes_jobs_only() -> None:
    """A function without `@job` is named."""

    async def forgotten(context: JobContext, payload: Close) -> int:
        return 1

    with pytest.raises(DefinitionError, match="forgotten: is no kind of job; put @job above"):
        App(jobs=[forgotten])  # type: ignore[list-item]


def test_a_timeout_is_more_than_nothing() -> None:
    """Else each job would fail."""
    for wrong in (0, -1, float("nan"), "5", True, timedelta(seconds=5)):
        with pytest.raises(DefinitionError, match="timeout: must be seconds, more than 0"):
            Kind(Close, close.handle, timeout=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        *(
            ({name: 5}, rf"App\({name}=\): is one int, not a list; put it into brackets")
            for name in ("jobs", "schedule", "metadata", "arq_functions")
        ),
        ({"schedule": [Close]}, r"App\(schedule=\): Close: says no times; write Recurring"),
        ({"metadata": [5]}, r"App\(metadata=\): int: is no MetaData"),
        ({"resources": 5}, r"App\(resources=\): is no function"),
        ({"schema": None}, r"App\(schema=\): is no text"),
    ],
)
def test_an_argument_of_another_kind_is_told_when_the_app_is_made(
    arguments: dict[str, Any], problem: str
) -> None:
    """With the argument; not by a worker or a test later."""
    with pytest.raises((DefinitionError, SettingError), match=problem):
        App(**{"jobs": [], **arguments})


class Maybe(Payload[int | None], kind="maybe"):
    """A payload of a job that may answer nothing."""


class Old(Payload[typing.List[int | str]], kind="old"):  # noqa: UP006
    """A payload whose type is written in the old way."""


def test_types_are_the_same_however_they_are_written() -> None:
    """And a handler may promise a part of what its payload does."""

    async def narrower(context: JobContext, payload: Maybe) -> int:
        return 1

    async def newer(context: JobContext, payload: Old) -> list[str | int]:
        return []

    async def other(context: JobContext, payload: Old) -> list[str]:
        return []

    assert (job(narrower).payload, job(newer).payload) == (Maybe, Old)
    with pytest.raises(
        DefinitionError, match=r"other\(\) -> list\[str\].*promises List\[int \| str"
    ):
        job(other)
