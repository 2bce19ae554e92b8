"""A change beside the checkout before it, `make bench-before BEFORE=…`: is anything slower now than it was.

Both do the same work in turns, in one run, on the same servers, each with its own schema and its own virtual
environment. ONLY=create,plain,noop picks workloads, ROUNDS=9 and SECONDS=2 say how long.
"""

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import workloads
from bench.contenders import OURS, PLAIN, SHARED, STAGED
from bench.results import Results
from bench.rounds import Pacing, play
from bench.servers import ROOT, servers

_WORKLOADS = ("create", "staged", "move", "noop", "plain", "shared")
_CREATING = {each.name: each for each in (STAGED, PLAIN, SHARED)}  # the others are kinds of `OURS`


def main(root: Path) -> int:
    """Measure both; exit status 1 if something could not be measured, 2 without an earlier checkout."""
    console, results = Console(width=100), Results()
    if not (root / ".venv" / "bin" / "python").exists():
        console.print(f"BEFORE={root}: there is no .venv in it: run make .venv/.ready there")
        return 2
    wanted = [name for name in os.environ.get("ONLY", "").split(",") if name] or _WORKLOADS
    with servers((ROOT, root)) as ours:
        pace = Pacing(float(os.environ.get("SECONDS", "2")))
        for workload in wanted:
            contender = _CREATING.get(workload, OURS)
            module = "ledgerq" if (root / "ledgerq").exists() else "worker"  # before version 0.2
            command = ("-m", module, "worker")
            pair = (contender, replace(contender, name="before", root=root, worker=command))
            kind = "create" if workload in _CREATING else workload
            found = Results()
            rounds = int(os.environ.get("ROUNDS", "9"))
            asyncio.run(play(workloads.drains(ours, kind, pair), rounds, pace, found, console))
            for name, as_name in ((contender.name, "now"), ("before", "before")):
                rates, cores = (
                    found.values.get(what, {}).get(name, [])
                    for what in (kind, f"{kind}: cores busy")
                )
                for rate, busy in zip(rates, cores, strict=True):
                    results.add(workload, as_name, rate)
                    cpu = busy / rate * 1e6 if rate and busy else None
                    results.add(f"{workload}: worker's CPU", as_name, cpu)
            results.failures |= found.failures
    console.print(_table(results))
    for what, why in results.failures.items():
        console.print(f"left out: {what}: {why}", markup=False, highlight=False)
    return 1 if results.failures or not results.values else 0


def _table(results: Results) -> Table:
    table = Table("workload", "now", "before", "now to before", "rounds from … to")
    for workload in results.values:
        ratios = results.ratios(workload, "now", "before")
        if not ratios:
            continue  # its failure is told below
        medians = [results.median(workload, name) or 0 for name in ("now", "before")]
        unit = "µs a job" if ":" in workload else "/s"
        table.add_row(
            workload,
            *(f"{median:,.0f} {unit}" for median in medians),
            f"{results.ratio(workload, 'now', 'before'):.3f}x",
            f"{min(ratios):.2f}x to {max(ratios):.2f}x",
        )
    return table


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
