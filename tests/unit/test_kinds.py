"""The catalogue, and what each payload refuses."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import Field, ValidationError, computed_field

from db.inputs import NewProject, NewTask
from jobs.kinds import CATALOGUE, CreateTask, create_task
from ledgerq import JobContext, Payload, job
from ledgerq.errors import InvalidPayload, UnknownKind
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.registry import Registry
from ledgerq.wire.envelope import Envelope, encode
from ledgerq.wire.request import Request
from worker.app import app


def resolve(kind: str, **payload: Any) -> Any:
    return (
        app.registry().resolve(Delivery("job", 1, b"", _envelope=Envelope(kind, payload))).payload
    )


def test_two_kinds_of_one_name_are_refused_at_start() -> None:
    """The name on the wire means one thing."""
    with pytest.raises(ValueError, match="create_task"):
        Registry([create_task, create_task])


def test_an_unknown_kind_names_the_known_ones() -> None:
    """A typing error in a producer is seen at a glance."""
    with pytest.raises(UnknownKind, match="create_task"):
        resolve("creat_task")


def test_every_kind_has_a_json_schema() -> None:
    """`ledgerq kinds` can show all of them."""
    for kind in CATALOGUE:
        assert kind.payload.model_json_schema()["additionalProperties"] is False


def test_json_text_becomes_dates_and_enums() -> None:
    """A strict model still reads what JSON can write."""
    task = resolve("create_task", title="x", project_id=1, due_at="2027-01-01T10:00:00+01:00")
    assert task == CreateTask(title="x", project_id=1, due_at=datetime(2027, 1, 1, 9, tzinfo=UTC))


class Aliased(Payload[None], kind="aliased"):
    """A payload whose fields have other names outside, and whose JSON has more than its fields."""

    a: int = Field(serialization_alias="A")
    b: int = Field(alias="B")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def both(self) -> int:
        """A computed field."""
        return self.a + self.b


@job
async def take_aliased(context: JobContext, payload: Aliased) -> None:
    """Answers nothing."""


def test_a_payload_arrives_as_it_was_sent() -> None:
    """With aliases and computed fields; a producer in another language may use the aliases."""
    sent = Aliased(a=1, B=2)
    registry = Registry([take_aliased])
    assert registry.resolve(Delivery("job", 1, encode(Request(sent).envelope))).payload == sent
    theirs = Envelope("aliased", {"a": 1, "B": 2})
    assert registry.resolve(Delivery("job", 1, b"", _envelope=theirs)).payload == sent


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({"project_id": 1}, "title"),
        ({"title": "", "project_id": 1}, "title"),
        ({"title": "  \n", "project_id": 1}, "title"),
        ({"title": "x" * 501, "project_id": 1}, "title"),
        ({"title": "a\x00b", "project_id": 1}, "title"),
        ({"title": 7, "project_id": 1}, "title"),
        ({"title": "x", "project_id": "1"}, "project_id"),
        ({"title": "x", "project_id": 0}, "project_id"),
        ({"title": "x", "project_id": 2**63}, "project_id"),
        ({"title": "x", "project_id": 1.5}, "project_id"),
        ({"title": "x", "project_id": 1, "status": "finished"}, "status"),
        ({"title": "x", "project_id": 1, "due_at": "2027-01-01T10:00:00"}, "due_at"),
        ({"title": "x", "project_id": 1, "due_at": "soon"}, "due_at"),
        ({"title": "x", "project_id": 1, "due_at": "9999-12-31T23:59:59-10:00"}, "due_at"),
        ({"title": "x" * 10_000_000, "project_id": 1}, "title"),
        ({"title": "x", "project_id": 1, "tags": "backend"}, "tags"),
        ({"title": "x", "project_id": 1, "tags": ["a", "a"]}, "tags"),
        ({"title": "x", "project_id": 1, "tags": ["a"] * 51}, "tags"),
        ({"title": "x", "project_id": 1, "tags": ["a", ""]}, "tags.1"),
        ({"title": "x", "project_id": 1, "colour": "red"}, "colour"),
    ],
)
def test_a_bad_payload_is_refused_with_its_field(payload: dict[str, Any], field: str) -> None:
    """Every broken rule names the field, and never repeats the value."""
    with pytest.raises(InvalidPayload) as refused:
        resolve("create_task", **payload)
    assert field in {problem.field for problem in refused.value.problems}


@pytest.mark.parametrize("model", [NewTask, NewProject])
def test_lone_surrogates_are_refused(model: type[NewTask] | type[NewProject]) -> None:
    """Half a character, which Python can hold and no database stores."""
    field = "title" if model is NewTask else "name"
    with pytest.raises(ValidationError, match=field):
        model.model_validate({field: "a\ud800b", "project_id": 1})


def test_no_error_repeats_a_value() -> None:
    """A value may be a secret."""
    with pytest.raises(InvalidPayload) as refused:
        resolve("create_task", title="x", project_id="hunter2", colour="hunter2")
    assert "hunter2" not in str(refused.value)
    assert len(refused.value.problems) == 2
