"""What several commands ask for."""

import os

import pytest

from ledgerq.cli.options import for_the_log


@pytest.mark.parametrize(
    "name", ["", " ", "\t", "me\x1b[2J", "me\nyou", "me\x00", "m\u202ee", "x" * 101, None]
)
def test_a_user_without_a_name_fit_for_the_log_is_known_by_number(
    monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    """LOGNAME may be anything, and a container's user may have no name; an author is never lost."""

    def getuser() -> str:
        if name is None:
            raise KeyError("getpwuid(): uid not found")
        return name

    monkeypatch.setattr("getpass.getuser", getuser)
    assert for_the_log(None, "why")["actor"] == f"cli:uid-{os.getuid()}"


def test_a_user_with_a_name_is_known_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And whoever names an actor is taken at their word."""
    monkeypatch.setattr("getpass.getuser", lambda: "zoë")
    assert for_the_log(None, "why") == {"actor": "cli:zoë", "reason": "why"}
    assert for_the_log("user:7", "why")["actor"] == "user:7"
