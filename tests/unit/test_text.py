"""Text from outside: cut, escaped, and never a reason to fail."""

import io
import logging
import re
import sys
from typing import Literal

import pytest
import structlog

from ledgerq.cli import output
from ledgerq.logs import configure_logging
from ledgerq.text import cut, cut_end, described, one_line, printable, shown, traceback_of

WILD = "a\x1b[2J\x9b1m\x07\r\x00\u202e\u2028\ud800\nb"


def harmless(text: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in text)


@pytest.fixture
def _logging_restored() -> object:
    root, level = logging.getLogger(), logging.getLogger().level
    handlers = list(root.handlers)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_a_cut_text_has_the_length_asked_for_and_says_how_long_it_was() -> None:
    """At either end."""
    assert len(cut("x" * 5_000, 100)) == len(cut_end("x" * 5_000, 100)) == 100
    assert "5,000 characters" in cut("x" * 5_000, 100)
    assert cut("short", 100) == cut_end("short", 100) == "short"


def test_what_is_printable_is_one_line_that_no_terminal_obeys() -> None:
    """Control characters of both sets, BiDi marks, separators, halves of characters."""
    assert harmless(printable(WILD))
    assert "\n" not in printable(WILD)


def test_an_error_is_described_whatever_it_holds() -> None:
    """On one line, cut, without what a database or a terminal can't take."""
    error = ValueError(WILD * 1_000)
    assert harmless(one_line(error))
    assert len(described(error, 300)) <= 300
    assert len(traceback_of(error, 500)) <= 500
    assert "\x00" not in described(error)


def test_a_long_result_is_cut_in_the_log() -> None:
    """A short one is itself."""
    assert shown([1, 2]) == [1, 2]
    assert len(shown("x" * 100_000)) <= 1_000
    assert shown(object())


@pytest.mark.usefixtures("_logging_restored")
def test_no_control_character_reaches_a_console_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """In no key, value, id or traceback, of our lines and of a library's."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    configure_logging("console", "INFO")
    try:
        raise ValueError(WILD)  # noqa: TRY301 - what is logged has a traceback
    except ValueError:
        log = structlog.stdlib.get_logger("test")
        log.exception("job.x", job_id=WILD.replace("\n", ""), result={WILD: WILD}, **{WILD: 1})
        logging.getLogger("library").exception("said %s", WILD)
    written = out.getvalue()
    assert "job.x" in written
    assert "said" in written
    coloured = written.replace("\x1b[", "")  # the renderer's own
    assert "\x1b" not in coloured
    assert harmless(coloured.replace("\t", " "))
    assert "2J" in coloured


class Silent:
    """A value of which nothing can be told."""

    def __repr__(self) -> str:
        raise RuntimeError


FORGED = "\n2026-01-01T00:00:00Z [info     ] forged"


@pytest.mark.usefixtures("_logging_restored")
@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_strangers_text_forges_no_log_line(
    monkeypatch: pytest.MonkeyPatch, log_format: Literal["console", "json"]
) -> None:
    """Wherever it stands: event, value, key, a library's text, or inside a traceback, where it is indented."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    configure_logging(log_format, "INFO")
    log = structlog.stdlib.get_logger("test")
    log.info(FORGED, value=FORGED, nested=[FORGED], **{FORGED: 1})
    logging.getLogger("library").warning("said %s", FORGED)
    assert len(out.getvalue().splitlines()) == 2
    try:
        raise ValueError(FORGED)  # noqa: TRY301 - what is logged has a traceback
    except ValueError:
        log.exception("job.x", stack_info=True)
    plain = re.sub(r"\x1b\[\d*m", "", out.getvalue())
    begun = [line for line in plain.splitlines() if not line.startswith(" ")]
    assert len(begun) == 3
    assert not any(re.match(FORGED.strip()[:10], line) for line in begun)


@pytest.mark.usefixtures("_logging_restored")
@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_value_that_can_not_be_told_costs_no_log_line(
    monkeypatch: pytest.MonkeyPatch, log_format: Literal["console", "json"]
) -> None:
    """Its class is named; neither a key that JSON has not nor a list in itself costs the line."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    configure_logging(log_format, "INFO")
    circle: list[object] = []
    circle.append(circle)
    log = structlog.stdlib.get_logger("test")
    for value in (Silent(), [Silent()], circle, {(1, 2): 3}):
        log.info("job.x", value=value)
    assert out.getvalue().count("job.x") == 4
    assert "Logging error" not in out.getvalue()
    assert "<Silent: RuntimeError>" in out.getvalue()


def test_an_id_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """`:book:` is no picture, and `[red]` no colour: who reads an id must be able to type it."""
    ids = "shop:book:1 [red]x"
    output.say(ids)
    output.complain(ids)
    output.print_fields({"job_id": ids})
    output.print_rows(("job",), [(ids,)])
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count(ids) == 4
