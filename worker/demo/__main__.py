"""`python -m worker.demo`: runs real jobs on a Redis and a PostgreSQL of its own, and counts the rows at the end."""

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from ledgerq.errors import LedgerqError
from worker.demo import run as demonstration
from worker.demo.plan import MIN_JOBS

out, err = Console(), Console(stderr=True)


def main(
    jobs: Annotated[int, typer.Option(min=MIN_JOBS, max=1_000_000)] = 1_000,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
) -> None:
    """Run real jobs on a Redis and a PostgreSQL of the demo's own, and count the rows."""
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=err,
        disable=as_json or not err.is_terminal, transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task("jobs enqueued", total=jobs)
        report = demonstration.run(
            jobs,
            say=lambda text: None if as_json else err.print(f"{text} …", highlight=False),
            progress=lambda done: bar.update(task, completed=done),
        )
    if as_json:
        out.print_json(data=report.as_json())
    else:
        _print_report(report)
    raise typer.Exit(0 if report.tally.agrees else 1)


def _print_report(report: demonstration.Report) -> None:
    table = Table("what", "count", title="In the database", title_justify="left")
    for name, value in report.as_json().items():
        if name != "wrong":
            table.add_row(name.replace("_", " "), str(value))
    out.print(table)
    if report.tally.agrees:
        out.print("[green]Every job has exactly its rows and its audit entries.[/]")
    for line in report.tally.wrong[:20]:
        out.print(line, style="red")


if __name__ == "__main__":
    try:
        typer.run(main)
    except LedgerqError as error:
        sys.exit(f"demo: {error}")
