"""How a payload's fields travel: what a worker makes of them equals what the producer had."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, SecretStr, field_serializer
from pydantic_core import from_json

from ledgerq import DefinitionError, JobContext, Payload, Request, Unique, job
from ledgerq.errors import InvalidRequest
from ledgerq.wire.envelope import Envelope, encode
from ledgerq.wire.payload_fields import fields_as_values


class Cat(BaseModel):
    model_config = ConfigDict(frozen=True)
    sort: Literal["cat"] = "cat"
    name: str = "x"


class Dog(BaseModel):
    sort: Literal["dog"] = "dog"
    name: str = "x"
    made: UUID = Field(default_factory=uuid4)


@dataclass(frozen=True)
class Point:
    x: int = 0
    tags: frozenset[str] = frozenset()


class Odd(Payload[str], kind="odd"):
    key: UUID = Field(default_factory=uuid4)
    pet: Annotated[Cat | Dog, Field(discriminator="sort")] = Cat()
    either: Cat | Dog = Cat()
    tags: list[str] = []  # noqa: RUF012 - pydantic copies it
    words: set[str] = set()  # noqa: RUF012
    points: dict[str, set[Point]] = {}  # noqa: RUF012
    number: int = 7
    text: str | None = None


def read_back(payload: Payload[Any]) -> Payload[Any]:
    """As a worker reads it."""
    return type(payload).model_validate_json(Request(payload).fields, by_alias=False, by_name=True)


@pytest.mark.parametrize(
    "payload",
    [
        Odd(),
        Odd(pet=Dog(), either=Dog()),
        Odd(words={"b", "a"}, points={"p": {Point(1, frozenset({"z", "y"})), Point(0)}}),
        Odd(number=7, text=None),
    ],
)
def test_a_worker_reads_what_the_producer_had(payload: Odd) -> None:
    """Also values of a default factory, in nested models too, and what tells the members of a union apart."""
    assert read_back(payload) == payload
    assert read_back(payload) == read_back(payload)


def test_a_default_that_was_changed_in_place_travels() -> None:
    """Nobody has set it, and it is no longer the default."""
    payload = Odd()
    payload.tags.append("x")
    assert read_back(payload) == payload


def test_a_default_of_the_class_stays_at_home() -> None:
    """Bodies are short, and a worker of the last release need not know a new field."""
    assert set(fields_as_values(Odd())) == {"key"}
    assert set(fields_as_values(Odd(number=7))) == {"key", "number"}


class Changes(BaseModel):
    title: str = "none"
    tags: list[str] = Field(default_factory=list)


class Update(Payload[None], kind="update"):
    changes: Changes
    more: list[Changes] = []  # noqa: RUF012


def test_a_worker_knows_which_fields_of_a_model_were_set() -> None:
    """An update names what it changes."""
    payload = Update(changes=Changes(title="none"), more=[Changes(tags=[])])
    told = read_back(payload)
    assert isinstance(told, Update)
    assert told.changes.model_fields_set == {"title"}
    assert [each.model_fields_set for each in told.more] == [{"tags"}]


class Item(BaseModel):
    n: int
    flag: bool = False


class Tree(Payload[None], kind="tree"):
    name: str = ""
    weight: int = 1
    children: list["Tree"] = []  # noqa: RUF012
    by_key: dict[int, Item] = {}  # noqa: RUF012
    later: "list[Later]" = []  # noqa: RUF012


class Open(Payload[None], kind="open"):
    model_config = ConfigDict(extra="allow")
    known: int = 1


class Sorting(Payload[None], kind="sorting"):
    items: list[Item]
    shifted: Annotated[Item, PlainSerializer(lambda item: {"n": item.n + 1, "flag": True})]

    @field_serializer("items")
    def in_order(self, items: list[Item]) -> list[dict[str, Any]]:
        return [each.model_dump() for each in sorted(items, key=lambda each: each.n)]


class Unequal:
    """A value that compares as an array does."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("ambiguous")

    __hash__ = None  # type: ignore[assignment]


class Strange(Payload[None], kind="strange"):
    array: Annotated[Any, PlainSerializer(lambda value: 7)] = Unequal()
    sink: dict[str, str] = {"type": "kafka", "serialization": "avro"}  # noqa: RUF012
    missing: Any = object()
    raw: bytes = b"\xff"
    token: SecretStr | None = Field(default=None, exclude=True)


class Later(BaseModel):
    x: int = 1


@job
async def grow(context: JobContext, tree: Tree) -> None: ...


@pytest.mark.parametrize(
    "payload",
    [
        Tree(children=[Tree(name="a", children=[Tree()]), Tree(weight=1)], by_key={1: Item(n=1)}),
        Tree(later=[Later(), Later(x=1)]),
        Open(known=1, more={"b": [1]}),
        Sorting(items=[Item(n=2), Item(n=1, flag=True)], shifted=Item(n=1)),
        Strange(sink={"type": "x"}),
        Odd(words={"b", "a"}, pet=Dog(), points={"p": {Point(1)}}),
    ],
    ids=lambda payload: type(payload).__name__,
)
def test_a_client_and_the_outbox_write_a_payload_alike(payload: Payload[Any]) -> None:
    """Whatever serializers its fields have; else one job would stand for two payloads."""
    request = Request(payload)
    assert from_json(request.fields) == request.envelope.payload


def test_what_a_serializer_of_the_fields_own_writes_is_let_alone() -> None:
    """Nothing of it is a default that could be left out."""
    payload = Sorting(items=[Item(n=2), Item(n=1, flag=True)], shifted=Item(n=1))
    assert fields_as_values(payload) == {
        "items": [{"n": 1, "flag": True}, {"n": 2, "flag": False}],
        "shifted": {"n": 2, "flag": True},
    }


class ByKey(Payload[None], kind="by_key"):
    items: dict[str, Item]


def test_no_key_of_a_mapping_means_another_one() -> None:
    """Keys are data; for pydantic, one of them stands for all."""
    payload = ByKey(items={"__all__": Item(n=1), "b": Item(n=5, flag=True)})
    assert read_back(payload) == payload


def test_sets_are_written_alike_by_every_process() -> None:
    """Else the same request, made again elsewhere, would be taken for another payload."""
    words = [f"word-{n}" for n in range(20)]
    one, other = (Odd(key=UUID(int=1), words=set(some)) for some in (words, words[::-1]))
    assert Request(one).fields == Request(other).fields
    written = from_json(Request(one).fields)
    assert written["words"] == sorted(words)
    assert Request(one).envelope.payload_hash == Envelope("odd", written).payload_hash


@pytest.mark.parametrize("number", [float(2**60), 1e23, 1e300, 1.2345678901234567e20, 1e16])
def test_a_large_number_has_one_hash_before_and_behind_the_database(number: float) -> None:
    """PostgreSQL writes 1e23 as 1 and 23 zeros, which `int(1e23)` is not."""
    whole = int(f"{number:.0f}") if number == 1e16 else int(_decimal(number))
    assert Envelope("k", {"n": number}).payload_hash == Envelope("k", {"n": whole}).payload_hash


def _decimal(number: float) -> str:
    digits, exponent = repr(number).split("e+")
    whole, _, rest = digits.partition(".")
    return whole + rest + "0" * (int(exponent) - len(rest))


class Login(Payload[str], kind="login"):
    password: SecretStr


class Spelt(Payload[str], kind="spelt"):
    password: Annotated[
        SecretStr, PlainSerializer(lambda secret: secret.get_secret_value(), return_type=str)
    ]


async def log_in(context: JobContext, login: Login) -> str:
    return ""


class Nested(Payload[str], kind="nested"):
    type: str = ""
    metadata: list[Login]


async def nest(context: JobContext, nested: Nested) -> str:
    return ""


async def show(context: JobContext, shown: "Shown") -> SecretStr:
    return SecretStr("")


class Shown(Payload[SecretStr], kind="shown"):
    pass


@pytest.mark.parametrize(
    "use",
    [
        lambda: Request(Login(password=SecretStr("hunter2"))),
        lambda: job(log_in),
        lambda: job(nest),
        lambda: job(show),
    ],
)
def test_a_secret_is_refused_where_asterisks_would_travel(use: Callable[[], Any]) -> None:
    """The job would run with them, and nobody would be told."""
    with pytest.raises(DefinitionError, match="secret") as refused:
        use()
    assert "hunter2" not in str(refused.value)


def test_a_secret_with_a_serializer_of_its_own_travels() -> None:
    """Who writes one has decided."""
    assert read_back(Spelt(password=SecretStr("x"))) == Spelt(password=SecretStr("x"))


class Raw(Payload[str], kind="raw"):
    first: int = 1
    data: Any = b""


class NoKind(Payload[str]):
    pass


@pytest.mark.parametrize(
    "data", [b"\xff", "\ud800", object()], ids=["bytes", "surrogate", "object"]
)
def test_what_json_can_not_carry_is_refused_by_its_field(data: Any) -> None:
    """As every other error of a producer's request."""
    for way in ("fields", "envelope"):
        with pytest.raises(InvalidRequest, match="data"):
            getattr(Request(Raw(data=data)), way)


@pytest.mark.parametrize(
    ("field", "made"),
    [
        ("payload", lambda: Request(Raw)),  # type: ignore[arg-type]
        ("payload", lambda: Request(("first", 1))),  # type: ignore[arg-type]
        ("payload", lambda: Request(NoKind())),
        ("job_id", lambda: Request(Raw(), job_id=uuid4())),  # type: ignore[arg-type]
        ("delay", lambda: Request(Raw(), delay=5)),  # type: ignore[arg-type]
        ("unique", lambda: Request(Raw(), unique="k")),  # type: ignore[arg-type]
        ("unique.window", lambda: Unique("k", 5)),  # type: ignore[arg-type]
    ],
)
def test_a_request_of_wrong_types_is_refused_by_its_field(
    field: str, made: Callable[[], Any]
) -> None:
    """With the cure; not by an error from within."""
    with pytest.raises(InvalidRequest, match=f"^{field}: "):
        made()


def test_a_body_holds_what_the_fields_are() -> None:
    """Both ways of writing a payload agree."""
    request = Request(Odd(words={"b", "a"}, pet=Dog()))
    assert from_json(encode(request.envelope))["k"].items() >= from_json(request.fields).items()
