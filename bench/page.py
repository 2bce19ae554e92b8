"""docs/bench.md, from bench/results.json: no figure in it was typed by hand. `python -m bench.page` writes it anew."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.outside import CALL, CALL_OWN, HELD, MEMORY, SECONDS
from bench.results import Results, less_is_better, shown
from bench.servers import ROOT

RESULTS = ROOT / "bench" / "results.json"
PAGE = ROOT / "docs" / "bench.md"
_PARTS = {
    "create": "Creating a task, with its audit entry: jobs a second of one worker process",
    "move": "Changing a task's status: jobs a second of one worker process",
    "noop": "Doing nothing, exactly once: jobs a second of one worker process",
    "enqueue, one at a time": "Enqueuing one after another: jobs a second",
    "enqueue, in bulk": "Enqueuing many at once: jobs a second",
    "latency, idle, p50": "Idle worker: milliseconds from enqueue to commit, median",
    "latency, idle, p99": "The same, one in a hundred",
    "latency, 100/s, p50": "At 100 jobs a second: milliseconds from enqueue to commit, median",
    "latency, 100/s, p99": "The same, one in a hundred",
    "latency, half load, p50": (
        "At half of its own throughput, 1,000/s at most: milliseconds from enqueue to commit, median"
    ),
    "latency, half load, p99": "The same, one in a hundred",
    "idle, % of a core": "An idle worker: percent of a core",
    "idle, Redis commands/s": "An idle worker: commands that Redis executes a second",
    "idle, MB": "An idle worker: resident memory, MB",
    SECONDS: "500 jobs that wait 1 s each outside of the database, one worker: seconds until the last is committed",
    MEMORY: "1,000 jobs that wait outside of the database, one worker: MB more than at rest",
    HELD: "The same: connections in use",
    "recovery, s": "One of two workers killed: seconds until the last of its jobs is committed elsewhere",
}
_CALLS = {
    CALL: "Calling a service of 100 ms, then writing one row: 100 calls at once, one worker process",
    CALL_OWN: "The same, with as many calls at once as each one allows by default",
}
_HOW_CALLS = """
The service is one process on loopback that answers each HTTP request after 100 ms; its first row says how many calls a second it
answers to bare clients. Everybody calls it by httpx with one `AsyncClient`, and writes one row in a transaction after the call.
Peers have the pool that SQLAlchemy gives without settings, 15 connections at most. Connections were counted in pg_stat_activity
every 20 ms: those that are open, and those in use, which is each that is not idle. ledgerq and DBOS record the call's answer
before the row; the others would call again.
"""
_NAMED = re.compile(  # the packages worth a word
    "arq|asyncpg|celery|ledgerq|pgqueuer|procrastinate|psycopg|redis|saq|sqlalchemy|sqlmodel|streaq|taskiq|uvloop|dbos|httpx",
    re.IGNORECASE,
)
_HOW = """
Everybody does the same work on the same PostgreSQL (fsync on) and the same Redis: one task row and one audit entry
in one transaction of SQLModel and SQLAlchemy. `create_task` and the change of status are the task manager's own jobs, on its richer models. The
plain, empty and waiting jobs of ledgerq run in a bare service (`bench/strangers.py`), on the peers' models. Each has an environment of its own and the settings at the end of this
page, which are the fastest that its documentation offers and trials found. Contenders take turns in every
round; a figure is the median of the rounds, a ratio the median of the ratios within a round. Each segment begins
with a fresh database and an empty Redis, and rows are counted by SQL from outside. ledgerq runs with
its defaults, every guarantee on. Absolute figures say as much about the machine as about the contenders.
"""
_HOW_BARS = """
"Without a queue" is what the peers' handler reaches by SQLAlchemy's session in one process that does nothing else: no queue, no
receipt. No worker process with a commit for each job is faster, whatever its queue. With shared commits ledgerq can be: it writes the
entries of many jobs in one statement. A kind reaches more with a handler for many jobs, as `create_task` has one.
"""


def render(run: dict[str, Any]) -> str:
    """The page."""
    return "\n".join(_lines(run)) + "\n"


def write(path: Path = RESULTS) -> None:
    """Write it."""
    PAGE.write_text(render(json.loads(path.read_text())))


def _lines(run: dict[str, Any]) -> Iterator[str]:
    machine = run["machine"]
    yield "# Measured: ledgerq beside its peers"
    yield ""
    yield (
        f"`make bench` of {run['date'][:10]}: {run['notes']['minutes']} minutes on {machine['cores']} cores of "
        f"{machine['processor']}, {machine['memory GiB']} GiB, Python {machine['python']}, "
        f"{run['versions']['postgresql'].replace('postgres (PostgreSQL)', 'PostgreSQL')}, "
        f"Valkey {run['versions']['redis']}."
    )
    yield _HOW
    yield "![jobs a second, latency and many workers](bench.svg)"
    yield ""
    yield from _bars(run["bars"])
    results = Results(run["values"])
    for workload, title in _PARTS.items():
        if workload in results.values:
            yield from _part(results, workload, title, run["titles"])
    for workload, title in _CALLS.items():
        if workload in results.values:
            yield from _calls(results, workload, title, run["titles"])
    yield from _growth(results)
    yield from _settings(run)


def _bars(bars: list[dict[str, Any]]) -> Iterator[str]:
    marks = {True: "reached", False: "**missed**", None: "not measured"}
    yield "## The bars"
    yield _HOW_BARS
    rows = [
        (
            each["what"],
            each["wanted"],
            _n(each["found"]),
            _n(each.get("ceiling")),
            marks[each["passed"]],
        )
        for each in bars
    ]
    yield from _table(("what", "wanted", "found", "without a queue", ""), rows)


def _part(results: Results, workload: str, title: str, titles: dict[str, str]) -> Iterator[str]:
    yield f"## {title}"
    yield ""
    versus = "times ours" if less_is_better(workload) else "ours is so many times faster"
    rows = []
    for name, median, (least, most) in results.rows(workload):
        ratio = results.ratio(workload, "ours", name)
        if ratio and less_is_better(workload):
            ratio = 1 / ratio
        shown = "" if name == "ours" else _n(ratio)
        rows.append((titles[name], _n(median), f"{_n(least)} to {_n(most)}", shown))
    yield from _table(("who", "median", "least to most", versus), rows)


def _calls(results: Results, workload: str, title: str, titles: dict[str, str]) -> Iterator[str]:
    yield f"## {title}"
    yield _HOW_CALLS if workload == CALL else ""
    columns = ("connections, median", "connections, most", "in use, median", "in use, most")
    rows = [
        (
            titles[name],
            _n(median),
            f"{_n(least)} to {_n(most)}",
            *(_n(results.median(f"{workload}: {column}", name)) for column in columns),
        )
        for name, median, (least, most) in results.rows(workload)
    ]
    yield from _table(("who", "jobs a second", "least to most", *columns), rows)


def _growth(results: Results) -> Iterator[str]:
    yield "## Many workers, long queues: ledgerq, and some peers where they are named"
    yield ""
    grown = [name for name in results.values if " workers" in name or " queued" in name]
    grown += [name for name in results.values if name.endswith("deferred")]
    rows = [
        (name, who, _n(median), f"{_n(least)} to {_n(most)}")
        for name in grown
        for who, median, (least, most) in results.rows(name)
    ]
    yield from _table(("what", "who", "median", "least to most"), rows)


def _settings(run: dict[str, Any]) -> Iterator[str]:
    yield "## Settings and versions"
    yield ""
    rows = [(run["titles"][name], settings) for name, settings in run["settings"].items()]
    yield from _table(("who", "settings"), rows)
    for who, versions in run["versions"].items():
        if isinstance(versions, dict):
            told = [f"{name} {of}" for name, of in versions.items() if _NAMED.fullmatch(name)]
            yield f"- {who}: {', '.join(told)}"
    for what, why in run["failures"].items():
        yield f"- left out, {what}: {' '.join(why.split())[:200]}"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    for row in (head, ("---",) * len(head), *rows):
        yield f"| {' | '.join(row)} |"
    yield ""


def _n(value: float | None) -> str:
    return "" if value is None else shown(value)


if __name__ == "__main__":
    write()
