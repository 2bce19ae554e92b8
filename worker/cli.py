"""The command line. Every error of ours is one line on standard error and exit status 1; 2 for a wrong use."""

import asyncio
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from redis.exceptions import RedisError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from db.config import DatabaseConfig
from db.engine import open_database
from db.errors import LedgerqError, UsageError
from db.schema import current_revision
from db.schema import migrate as migrate_schema
from db.settings import load, refuse_unknown
from jobs import kinds as catalogue
from jobs.registry import Payload
from worker import cli_dead, cli_jobs
from worker import health as health_checks
from worker.app import build_worker, run_to_the_end
from worker.arguments import AsJson, checked_payload
from worker.client import EnqueuedJob, JobClient
from worker.config import PREFIX, Config, WorkerConfig, load_config
from worker.demo import run as demonstration
from worker.demo.plan import MIN_JOBS
from worker.dev import run_dev
from worker.limits import HEALTH, LIMIT, run_within
from worker.logs import configure_logging
from worker.supervise import Supervisor, stop_with_supervisor
from worker.terminal import complain, err, out, plain, print_json, say

app = typer.Typer(
    name="ledgerq",
    help="Background jobs whose database effects happen exactly once, with the audit trail to prove it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
cli_jobs.add_to(app)
cli_dead.add_to(app)

MAX_WAIT = 10 * 365 * 86_400  # seconds: nobody waits longer than ten years


def main() -> None:
    """The `ledgerq` command."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        app()
    except (LedgerqError, SQLAlchemyError, RedisError, OSError) as error:
        said = str(getattr(error, "orig", None) or error)
        complain(f"ledgerq: {said or type(error).__name__}")
        sys.exit(2 if isinstance(error, UsageError) else 1)


def _end(signum: int, _frame: object) -> NoReturn:
    """SIGTERM ends a command by the way on which its servers are stopped."""
    sys.exit(128 + signum)


@app.callback()
def check_settings() -> None:
    """Refuse a misspelt setting before anything is done."""
    refuse_unknown(PREFIX, WorkerConfig, DatabaseConfig)


@app.command()
def worker(
    processes: Annotated[
        int, typer.Option(min=1, max=256, help="So many, started again if one ends.")
    ] = 1,
    supervised: Annotated[bool, typer.Option("--supervised", hidden=True)] = False,
) -> None:
    """Run jobs from the queue until SIGTERM or SIGINT."""
    config = load_config()
    configure_logging(config.worker)
    if processes > 1:
        raise typer.Exit(asyncio.run(Supervisor(processes).run()))
    worker = build_worker(config)
    if supervised:
        stop_with_supervisor(worker.loop)
    run_to_the_end(worker)


@app.command()
def migrate(
    revision: Annotated[str, typer.Argument(help="Where to, by Alembic's names.")] = "head",
) -> None:
    """Bring the database's schema up to date."""
    config = load(DatabaseConfig)
    migrate_schema(config, revision)
    say(f"The schema is at {asyncio.run(_revision(config))}.")


@app.command()
def enqueue(
    kind: Annotated[str, typer.Argument(help="What to do: see `ledgerq kinds`.")],
    payload: Annotated[str, typer.Option(help="The job's fields, a JSON object.")] = "{}",
    job_id: Annotated[str | None, typer.Option(help="The idempotency key.")] = None,
    delay: Annotated[float, typer.Option(help="Seconds before it may run.")] = 0,
    actor: Annotated[str, typer.Option(help="Who asks, for the audit log.")] = "cli",
    wait: Annotated[
        float | None, typer.Option(help="Wait for the result, at most so many seconds.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put one job on the queue."""
    checked = checked_payload(kind, payload)
    for option, seconds in (("--delay", delay), ("--wait", wait or 0)):
        if not 0 <= seconds <= MAX_WAIT:
            raise UsageError(option, "is out of range", f"give 0 to {MAX_WAIT} seconds")
    work = _enqueue(checked, job_id, delay, actor, wait, as_json=as_json)
    run_within(LIMIT + (wait or 0), work)


async def _revision(config: DatabaseConfig) -> str | None:
    async with open_database(config) as database:
        return await current_revision(database)


async def _enqueue(
    payload: Payload,
    job_id: str | None,
    delay: float,
    actor: str,
    wait: float | None,
    *,
    as_json: bool,
) -> None:
    async with JobClient.open(load(WorkerConfig)) as client:
        later = timedelta(seconds=delay)
        job = await client.enqueue(payload, job_id=job_id, delay=later, actor=actor)
        answer: dict[str, Any] = {"job_id": job.job_id, "kind": payload.kind, "is_new": job.is_new}
        if wait is not None:
            answer["result"] = await _result(job, wait)
    if as_json:
        print_json(answer)
        return
    say(
        f"{payload.kind} is job {job.job_id}"
        + ("" if job.is_new else ", which was there before")
        + (f"; it answered {answer['result']}" if wait is not None else "")
    )


async def _result(job: EnqueuedJob, seconds: float) -> Any:
    try:
        return await job.result(timeout=seconds)
    except TimeoutError:
        raise StillRunning(job.job_id, seconds) from None


class StillRunning(LedgerqError):
    """The job has not ended in the time that the caller would wait."""

    def __init__(self, job_id: str, seconds: float) -> None:
        super().__init__(f"--wait: job {job_id} has not ended within {seconds:g} s; it goes on")


@app.command()
def health(
    require_worker: Annotated[
        bool, typer.Option("--worker", help="Fail too if no worker lives on this machine.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Ask Redis, the database and the workers; exit status 0 if all is well."""
    ok = run_within(HEALTH, _health(load_config(), require_worker=require_worker, as_json=as_json))
    raise typer.Exit(0 if ok else 1)


async def _health(config: Config, *, require_worker: bool, as_json: bool) -> bool:
    """Says what it found before anything is closed: that may take longer than there is time."""
    checks = await health_checks.check(config)
    ok = all(check.ok for check in checks if require_worker or check.name != "workers")
    if as_json:
        print_json({"ok": ok, **{check.name: _plain(check) for check in checks}})
        return ok
    for check in checks:
        mark = (
            "[red]down[/]"
            if not check.ok
            else "[yellow]note[/]"
            if check.warn
            else "[green]ok[/]  "
        )
        out.print(f"{mark} {check.name:<9}", end="")
        say(check.detail)
    return ok


def _plain(check: health_checks.Check) -> dict[str, Any]:
    return {"ok": check.ok, "detail": check.detail, **({"warn": True} if check.warn else {})}


@app.command()
def kinds(as_json: AsJson = False) -> None:
    """What can be enqueued, with the JSON schema of each payload."""
    schemas = {kind.name: kind.payload.model_json_schema() for kind in catalogue.CATALOGUE}
    if as_json:
        print_json(schemas)
        return
    for name, schema in schemas.items():
        table = Table("field", "type", "required", title=plain(name), title_justify="left")
        for field, rules in schema.get("properties", {}).items():
            required = "yes" if field in schema.get("required", ()) else ""
            table.add_row(plain(field), plain(_type_of(rules, schema)), required)
        out.print(table)


def _type_of(rules: dict[str, Any], schema: dict[str, Any]) -> str:
    if "$ref" in rules:
        rules = schema["$defs"][rules["$ref"].rpartition("/")[2]]
    if "enum" in rules:
        return " | ".join(rules["enum"])
    if "anyOf" in rules:
        return " | ".join(_type_of(each, schema) for each in rules["anyOf"])
    if rules.get("type") == "array":
        return f"[{_type_of(rules['items'], schema)}]"
    return str(rules.get("format") or rules.get("type") or "any")


@app.command()
def demo(
    jobs: Annotated[int, typer.Option(min=MIN_JOBS, max=1_000_000)] = 1_000,
    as_json: AsJson = False,
) -> None:
    """Run real jobs through a real Redis into a real PostgreSQL of their own, and count."""
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=err,
        disable=as_json or not err.is_terminal, transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task("jobs enqueued", total=jobs)
        report = demonstration.run(
            jobs,
            say=lambda text: None if as_json else err.print(plain(f"{text} …"), highlight=False),
            progress=lambda done: bar.update(task, completed=done),
        )
    if as_json:
        print_json(report.as_json())
    else:
        _print_report(report)
    raise typer.Exit(0 if report.tally.agrees else 1)


def _print_report(report: demonstration.Report) -> None:
    table = Table("what", "count", title="In the database", title_justify="left")
    for name, value in report.as_json().items():
        if name != "wrong":
            table.add_row(plain(name.replace("_", " ")), plain(str(value)))
    out.print(table)
    if report.tally.agrees:
        out.print("[green]Every job has exactly its rows and its audit entries.[/]")
    for line in report.tally.wrong[:20]:
        out.print(plain(line), style="red")


@app.command()
def dev(
    folder: Annotated[Path, typer.Option(help="Where the servers keep their data.")] = Path(
        ".ledgerq"
    ),
    reset: Annotated[bool, typer.Option("--reset", help="Wipe that data first.")] = False,
) -> None:
    """Keep a PostgreSQL, a Redis and a worker running for development; data stays between runs."""
    run_dev(folder, reset=reset, console=err)
