"""What an application may have audited is checked when it is made; keys and values have their stated forms."""

from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json
from sqlalchemy import JSON, ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ledgerq import App, Audited
from ledgerq.audit import key_text
from ledgerq.errors import DefinitionError
from ledgerq.store.entities import MAX_VALUE, as_json, fitted


class Base(DeclarativeBase):
    """Of this file."""


class Order(Base):
    __tablename__ = "audited_order"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    lines: Mapped[Any] = mapped_column(JSON)


class Person(Base):
    __tablename__ = "audited_person"
    id: Mapped[int] = mapped_column(primary_key=True)
    role: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "role", "polymorphic_identity": "person"}  # noqa: RUF012


class Clerk(Person):
    __tablename__ = "audited_clerk"
    id: Mapped[int] = mapped_column(ForeignKey("audited_person.id"), primary_key=True)
    tags: Mapped[Any] = mapped_column(JSON)
    __mapper_args__ = {"polymorphic_identity": "clerk"}  # noqa: RUF012


class Guest(Person):
    __tablename__ = "audited_guest"
    guest_id: Mapped[int] = mapped_column(ForeignKey("audited_person.id"), primary_key=True)
    __mapper_args__ = {"polymorphic_identity": "guest"}  # noqa: RUF012


REFUSED = {
    "JSON of a subclass that is changed unseen": (
        Person,
        "SQLAlchemy does not see changes inside of Clerk.tags",
    ),
    "no mapped class": (Base, "App(audited=): Base is no mapped class; name the classes"),
    "no class": ("orders", "App(audited=): 'orders' is no mapped class"),
    "JSON that is changed unseen": (
        Order,
        (
            "SQLAlchemy does not see changes inside of Order.lines, and would not write them; declare it as "
            "MutableDict.as_mutable(…) or MutableList.as_mutable(…), or say Audited(Order, replaced={'lines'})"
        ),
    ),
    "an unknown column": (
        Audited(Order, mask={"colour"}),
        "Audited(Order, mask=): Order has no column 'colour'; it has id, name, lines",
    ),
    "one text": (Audited(Order, exclude="name"), "'name' is one text; give a set: {'name'}"),
    "a masked key": (
        Audited(Order, mask={"id"}),
        "Audited(Order, mask=): 'id' is part of the primary key, which each entry shows; leave it out of mask",
    ),
    "an excluded key": (
        Audited(Order, exclude={"id"}),
        "Audited(Order, exclude=): 'id' is part of the primary key, which each entry shows; leave it out of exclude",
    ),
    "a key of one of its tables": (
        Audited(Guest, mask={"guest_id"}),
        "Audited(Guest, mask=): 'guest_id' is part of the primary key",
    ),
}


@pytest.mark.parametrize(("asked", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_audited_is_refused_when_the_app_is_made(asked: Any, said: str) -> None:
    """The text names the column and the cure; a column that is the id of each entry can't be hidden in any way."""
    with pytest.raises(DefinitionError) as refused:
        App(jobs=[], audited=[asked])
    assert said in str(refused.value)


def test_a_class_is_listed_once() -> None:
    """Else one of two masks would not be used."""
    with pytest.raises(DefinitionError, match="Order is listed twice"):
        App(
            jobs=[], audited=[Audited(Order, exclude={"lines"}), Audited(Order, replaced={"lines"})]
        )


@pytest.mark.parametrize("by_trigger", [Person, Clerk])
def test_the_classes_of_one_table_are_all_audited_by_triggers_or_none(by_trigger: Any) -> None:
    """A trigger sees the rows of both; the flush would tell of them twice, or nobody would."""
    audited = [
        Audited(each, by_trigger=each is by_trigger, replaced={"tags"} if each is Clerk else ())
        for each in (Person, Clerk)
    ]
    for order in (audited, audited[::-1]):
        with pytest.raises(DefinitionError, match="have rows in table audited_person, and one"):
            App(jobs=[], audited=order)


def test_audited_is_a_list() -> None:
    """One class alone is refused in a sentence."""
    for one in (Order, Audited(Order, exclude={"lines"}), 5):
        with pytest.raises(DefinitionError, match=r"alone is no list; write audited=\["):
            App(jobs=[], audited=one)  # type: ignore[arg-type]


def test_json_that_is_left_out_or_only_assigned_need_not_tell_of_changes() -> None:
    """Said once, in the list."""
    for audited in (Audited(Order, exclude={"lines"}), Audited(Order, replaced={"lines"})):
        assert App(jobs=[], audited=[audited]).audited == (audited,)


def test_keys_have_a_readable_text() -> None:
    """As the documentation has them."""
    key = UUID("6f0f2d0e-9a75-4d0a-8f3f-0d5f4f5ab111")
    texts: dict[Any, str] = {
        7: "7",
        key: str(key),
        "a,b": "a,b",
        ("EU", 7): "EU,7",
        ("a,b", "c\\"): "a\\,b,c\\\\",
        (None, ""): "\\N,",
        (7,): "7",
        date(2026, 1, 2): "2026-01-02",
        (True, Decimal("1E+2")): "true,100",
    }
    assert {each: key_text(each) for each in texts} == texts


PART = st.one_of(st.none(), st.integers(), st.text(), st.sampled_from(["\\", ",", "\\N", "N"]))


@given(one=st.lists(PART, min_size=2, max_size=3), other=st.lists(PART, min_size=2, max_size=3))
def test_different_keys_have_different_texts(one: list[Any], other: list[Any]) -> None:
    """Of 200 characters at most, however long the parts are."""
    texts = [[None if part is None else str(part) for part in key] for key in (one, other)]
    same = texts[0] == texts[1]
    assert (key_text(tuple(one)) == key_text(tuple(other))) == same
    assert len(key_text((*one, "x" * 300))) <= 200
    assert (key_text((*one, "x" * 300)) == key_text((*other, "x" * 300))) == same


class Colour(Enum):
    RED = "red"


VALUES = [
    (datetime(2026, 1, 2, 3, tzinfo=UTC), "2026-01-02T03:00:00Z"),
    (Decimal("1.50"), "1.50"),
    (Colour.RED, "red"),
    (float("nan"), "nan"),
    ({1: {"b", "a"}, "\x00": (1,)}, {"1": ["a", "b"], "\\x00": [1]}),
    ("\ud800", "\\ud800"),
    (
        b"",
        {"bytes": 0, "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
    ),
]


@pytest.mark.parametrize(("value", "written"), VALUES)
def test_values_are_written_as_json(value: object, written: object) -> None:
    """Whatever a column holds."""
    assert as_json(value) == written


def test_a_document_is_cut_by_its_characters() -> None:
    """Not by its bytes: letters of many scripts have several."""
    fits = {"name": "я" * (MAX_VALUE // 2)}
    assert fitted(fits) == fits
    assert len(fitted({"name": "я" * MAX_VALUE})) == MAX_VALUE


@given(
    st.recursive(
        st.one_of(st.none(), st.integers(), st.floats(), st.text(), st.binary(), st.decimals()),
        lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    )
)
def test_every_value_can_be_written_and_fits(value: object) -> None:
    """An entry never fails for what the row holds."""
    assert len(to_json(fitted(as_json(value)))) <= 6 * MAX_VALUE
    deep: Any = value
    for _ in range(300):
        deep = [deep]
    to_json(fitted(as_json(deep)))
    to_json(fitted(as_json(10**6_000)))
