"""A typed answer is read back as the handler gave it; a type for which that can't be is refused at import."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from types import new_class
from typing import Any, Generic, TypeVar
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, computed_field
from pydantic_core import from_json, to_json

from ledgerq import DefinitionError, JobContext, Payload, job
from ledgerq.errors import UnexpectedResult
from ledgerq.wire.payload import answer_of, result_type
from ledgerq.wire.result import storable_result

T = TypeVar("T")
ID, NOW = UUID(int=7), datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


class Color(Enum):
    """An enum of texts."""

    RED = "r"


class Strict(BaseModel):
    """A model that takes no text for a date."""

    model_config = ConfigDict(strict=True, frozen=True)
    at: datetime
    id: UUID
    amount: Decimal


class Sum(BaseModel):
    """A model whose JSON has more than its fields, and that takes no more."""

    model_config = ConfigDict(extra="forbid")
    a: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def twice(self) -> int:
        """A computed field."""
        return 2 * self.a


class Named(BaseModel):
    """A model whose fields have other names outside."""

    a: int = Field(serialization_alias="A")
    b: int = Field(alias="B")
    c: int = Field(validation_alias="C")


class Ask(Payload[int], kind="ask"):
    """A payload, which is an answer here."""

    id: UUID


@dataclass
class Pair:
    """A dataclass."""

    when: datetime
    color: Color


def payload_of(answer: Any) -> type[Payload[Any]]:
    """A payload class that names the type."""
    return new_class("Odd", (Payload[answer],), {"kind": "odd"})


ANSWERS: list[tuple[Any, Any]] = [
    (Strict, Strict(at=NOW, id=ID, amount=Decimal("1.50"))),
    (Ask, Ask(id=ID)),
    (Sum, Sum(a=1)),
    (list[Sum], [Sum(a=1)]),
    (Named, Named(B=2, C=3, a=1)),
    (Pair, Pair(NOW, Color.RED)),
    (set[int], {1}),
    (frozenset[str], frozenset("a")),
    (timedelta, timedelta(seconds=3)),
    (dict[int, UUID], {1: ID}),
    (dict[date, Decimal], {NOW.date(): Decimal("1.10")}),
    (tuple[int, str], (1, "a")),
    (int | str, "5"),
    (float, 1.0),
    (UUID | None, ID),
    (Path, Path("/x")),
    (bytes, b"ab"),
    (Color, Color.RED),
    (date | int, NOW.date()),
]


@pytest.mark.parametrize(("named", "answer"), ANSWERS, ids=lambda each: "")
def test_a_typed_answer_comes_back_as_it_was(named: Any, answer: Any) -> None:
    """Through JSON, as the database and Redis keep it."""
    payload = payload_of(named)

    async def handler(context: JobContext, payload: Any) -> Any:
        """Answers as annotated below."""

    handler.__annotations__ |= {"payload": payload, "return": named}
    assert job(handler).payload is payload
    kept = from_json(to_json(storable_result(answer, 1_000, payload)))
    read = answer_of("j", payload, kept)
    assert (read, type(read)) == (answer, type(answer))


class Holder(BaseModel):
    """A model with such a field."""

    at: date | str


@pytest.mark.parametrize(
    ("named", "problem"),
    [
        (date | str, r"holds date \| str, which look alike in JSON"),
        (list[date | str | None], r"holds date \| str"),
        (Holder, r"holds date \| str"),
        (str | bytes, r"look alike in JSON"),
        (Decimal | str, r"holds decimal \| str"),
        (Color | str, r"holds enum \| str"),
        (list[int] | set[int], "look alike in JSON"),
        (dict[tuple[int, int], str], "a dict with a tuple as its key"),
    ],
    ids=lambda each: "",
)
def test_a_type_that_cannot_come_back_is_refused(named: Any, problem: str) -> None:
    """If the payload promises it: a producer would get another type."""

    async def handler(context: JobContext, payload: Any) -> Any:
        """Answers as annotated below."""

    handler.__annotations__ |= {"payload": payload_of(named), "return": named}
    with pytest.raises(DefinitionError, match=f"{problem}.*could not read it back"):
        job(handler)


def test_an_answer_of_another_type_is_told_without_its_value() -> None:
    """The value may be a secret."""
    payload = payload_of(int)
    kept = storable_result("hunter2", 1_000, payload)
    with pytest.raises(UnexpectedResult, match="job j: what odd answered is not of the type") as no:
        answer_of("j", payload, kept)
    assert "hunter2" not in str(no.value)
    assert no.value.__cause__ is None


class Page(Payload[T], Generic[T]):
    """A payload class that leaves the type of the answer to those made of it."""

    size: int = 1


class Listed(Page[list[T]], Generic[T]):
    """… as a list."""


class Numbers(Page[int], kind="numbers"):
    """A payload."""


class Ids(Listed[UUID], kind="ids"):
    """A payload."""


class Open(Page[T], Generic[T], kind="open"):
    """A payload that names no type."""


def test_a_generic_payload_promises_what_its_brackets_say() -> None:
    """Through all classes between; so a handler that answers something else is refused."""
    assert (result_type(Numbers), result_type(Ids)) == (int, list[UUID])
    assert (result_type(Open), result_type(Open[Sequence[int]])) == (Any, Sequence[int])

    async def handler(context: JobContext, payload: Numbers) -> str:
        return ""

    with pytest.raises(DefinitionError, match="its payload promises int"):
        job(handler)
