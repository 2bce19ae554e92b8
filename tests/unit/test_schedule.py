"""A schedule that can't run is refused where it is written."""

from typing import Any

import pytest
from sqlmodel import SQLModel

from ledgerq import App, DefinitionError, JobContext, Payload, Recurring, job


class Report(Payload[None], kind="report"):
    """Complete by its defaults."""

    region: str = "EU"


class Bill(Payload[None], kind="bill"):
    """Not complete."""

    order_id: int


@job
async def report(context: JobContext, report: Report) -> None:
    """Does nothing."""


def test_ticks_are_one_number_or_some() -> None:
    """Every hour, at minute 0 and second 0, if nothing is said."""
    entry = Recurring(Report, hour=6, minute=range(0, 60, 30), second=None)
    assert (entry.hour, entry.minute, entry.second) == (frozenset({6}), frozenset({0, 30}), None)
    entry = Recurring(Report)
    assert (entry.hour, entry.minute, entry.second) == (None, frozenset({0}), frozenset({0}))


@pytest.mark.parametrize(
    ("ticks", "problem"),
    [
        ({"hour": 24}, r"Recurring\(Report, hour=\): has no 24; give one or some of 0 to 23"),
        ({"hour": -1}, "has no -1"),
        ({"minute": [0, 60]}, r"minute=\): has no 60"),
        ({"second": "5"}, "has no '5'"),
        ({"second": 5.0}, "names none"),
        ({"minute": []}, "names none; give one or some of 0 to 59, or None for every one"),
    ],
)
def test_a_tick_that_never_comes_is_refused(ticks: dict[str, Any], problem: str) -> None:
    """A worker would look for it for ever."""
    with pytest.raises(DefinitionError, match=problem):
        Recurring(Report, **ticks)


def test_a_payload_that_the_schedule_cannot_build_is_refused() -> None:
    """With the field that has no default."""
    with pytest.raises(DefinitionError, match=r"Recurring\(Bill\): .*by its defaults: order_id"):
        Recurring(Bill)
    with pytest.raises(DefinitionError, match="must be annotated with a class of Payload"):
        Recurring(report)  # type: ignore[arg-type]


def test_a_kind_that_the_app_does_not_have_is_refused() -> None:
    """Each of its ticks would fail."""
    with pytest.raises(
        DefinitionError, match=r"App\(schedule=\): Report: its kind 'report' is none"
    ):
        App(jobs=[], schedule=[Recurring(Report)])
    App(jobs=[report], schedule=[Recurring(Report)])


def test_one_metadata_is_told_from_a_list() -> None:
    """A common slip."""
    with pytest.raises(DefinitionError, match="is one MetaData, not a list; put it into brackets"):
        App(jobs=[], metadata=SQLModel.metadata)  # type: ignore[arg-type]
