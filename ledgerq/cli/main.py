"""The command line. An expected error is one line on standard error and exit status 1; 2 for a wrong option."""

import asyncio
import signal
import sys
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from redis.exceptions import RedisError
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from ledgerq.admin import health as health_checks
from ledgerq.cli import audit, dead_letters, init, jobs, steps
from ledgerq.cli import migrate as migrate_command
from ledgerq.cli.dev import run_dev
from ledgerq.cli.find_app import (
    AppName,
    alembic_ini,
    queues_of_app,
    require_app,
    tables_of_app,
)
from ledgerq.cli.limits import HEALTH, LIMIT, run_within
from ledgerq.cli.options import AsJson, OnQueue, Queues, checked_ids, checked_payload
from ledgerq.cli.output import complain, err, out, plain, print_json, require_writable, say
from ledgerq.cli.supervisor import Supervisor, stop_with_supervisor
from ledgerq.client import EnqueuedJob, JobClient
from ledgerq.config import CommandSettings, Config, WorkerConfig, load_config
from ledgerq.database.engine import Tables
from ledgerq.database.settings import DatabaseConfig
from ledgerq.database.sqlstate import is_grant_missing
from ledgerq.errors import InvalidPayload, InvalidRequest, LedgerqError, UnknownKind, UsageError
from ledgerq.job import Kind
from ledgerq.logs import configure_logging
from ledgerq.settings import PREFIX, load, refuse_unknown
from ledgerq.text import first_line
from ledgerq.wire.payload import Payload
from ledgerq.worker.build import build_worker, run_to_the_end

commands = typer.Typer(
    name="ledgerq",
    help="Background jobs whose database effects happen exactly once, with the audit trail to prove it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
init.add_to(commands)
migrate_command.add_to(commands)
jobs.add_to(commands)
dead_letters.add_to(commands)
steps.add_to(dead_letters.commands)
audit.add_to(commands)

# errors that mean a wrong option: `enqueue` and `dead` make jobs of their options
_WRONG_USE = (UsageError, InvalidPayload, InvalidRequest, UnknownKind)
MAX_WAIT = 10 * 365 * 86_400  # seconds: ten years


def main() -> None:
    """The `ledgerq` command."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    require_writable()
    try:
        commands()
    except (LedgerqError, SQLAlchemyError, RedisError, OSError) as error:
        said = str(getattr(error, "orig", None) or error)
        if is_grant_missing(error):
            said = (
                f"DATABASE_URL: {first_line(error)}; grant that to the role, or use a role that has it: "
                "ledgerq health lists the grants that are missing"
            )
        complain(f"ledgerq: {said or type(error).__name__}")
        sys.exit(2 if isinstance(error, _WRONG_USE) else 1)


def _end(signum: int, _frame: object) -> NoReturn:
    """On SIGTERM or SIGHUP, end by SystemExit, so that `finally` blocks stop the servers that were started."""
    sys.exit(128 + signum)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ledgerq {version('ledgerq')}")
        raise typer.Exit


@commands.callback()
def check_settings(
    version_too: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Refuse a misspelt setting before anything is done."""
    refuse_unknown(PREFIX, CommandSettings, WorkerConfig, DatabaseConfig)


@commands.command()
def worker(
    processes: Annotated[
        int, typer.Option(min=1, max=256, help="How many; one that ends is started again.")
    ] = 1,
    queue: Queues = None,
    app: AppName = None,
    supervised: Annotated[bool, typer.Option("--supervised", hidden=True)] = False,
) -> None:
    """Run jobs from the queues until SIGTERM or SIGINT."""
    found, config = require_app(), load_config()
    configure_logging(config.worker.log_format, config.worker.log_level)
    if processes > 1:
        raise typer.Exit(asyncio.run(Supervisor(processes).run()))
    worker = build_worker(found, config)
    if supervised:
        stop_with_supervisor(worker.loop)
    run_to_the_end(worker)


@commands.command()
def enqueue(
    kind: Annotated[str, typer.Argument(help="The kind of job: see `ledgerq kinds`.")],
    payload: Annotated[str, typer.Option(help="The job's fields, a JSON object.")] = "{}",
    job_id: Annotated[str | None, typer.Option(help="The idempotency key.")] = None,
    delay: Annotated[float, typer.Option(help="Seconds before it may run.")] = 0,
    actor: Annotated[str, typer.Option(help="Who asks, for the audit log.")] = "cli",
    queue: OnQueue = None,
    wait: Annotated[
        float | None, typer.Option(help="Wait for the result, at most this many seconds.")
    ] = None,
    app: AppName = None,
    as_json: AsJson = False,
) -> None:
    """Put one job on its kind's queue."""
    checked = checked_payload(kind, payload)
    checked_ids([] if job_id is None else [job_id])
    for option, seconds in (("--delay", delay), ("--wait", wait or 0)):
        if not 0 <= seconds <= MAX_WAIT:
            raise UsageError(option, "is out of range", f"give 0 to {MAX_WAIT} seconds")
    if wait is not None and checked.keep_result == 0:
        raise UsageError("--wait", f"Redis keeps no result of {kind}", "ask `ledgerq job` later")
    named = require_app().registry().queues.get(kind) if queue is None else queue
    work = _enqueue(checked, job_id, delay, actor, wait, named, as_json=as_json)
    run_within(LIMIT + (wait or 0), work)


async def _enqueue(
    payload: Payload,
    job_id: str | None,
    delay: float,
    actor: str,
    wait: float | None,
    queue: str | None,
    *,
    as_json: bool,
) -> None:
    async with JobClient.open(load(WorkerConfig)) as client:
        later = timedelta(seconds=delay)
        job = await client.enqueue(payload, job_id=job_id, delay=later, actor=actor, queue=queue)
        answer: dict[str, Any] = {"job_id": job.job_id, "kind": payload.kind, "is_new": job.is_new}
        if wait is not None:
            # the answer as JSON, not as the type that the payload names
            answer["result"] = await _result(client.job(job.job_id, queue=job.queue), wait)
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
    """The job has not ended within the seconds of `--wait`; it runs on."""

    def __init__(self, job_id: str, seconds: float) -> None:
        super().__init__(f"--wait: job {job_id} has not ended within {seconds:g} s; it goes on")


@commands.command()
def health(
    require_worker: Annotated[
        bool, typer.Option("--worker", help="Fail too if no worker lives on this machine.")
    ] = False,
    app: AppName = None,
    as_json: AsJson = False,
) -> None:
    """Check Redis, the database and the workers; exit status 0 if all are well."""
    config, tables = load_config(), tables_of_app()
    work = _health(config, tables, queues_of_app(), require_worker=require_worker, as_json=as_json)
    ok = run_within(HEALTH, work)
    raise typer.Exit(0 if ok else 1)


async def _health(
    config: Config,
    tables: Tables,
    kinds: dict[str, str | None],
    *,
    require_worker: bool,
    as_json: bool,
) -> bool:
    """Check and print the results at once, before connections are closed, which may take too long."""
    checks = await health_checks.check(config, tables, kinds=kinds)
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


@commands.command()
def kinds(app: AppName = None, as_json: AsJson = False) -> None:
    """List the kinds of job that can be enqueued, how they commit, and the JSON schema of each payload."""
    jobs = require_app().jobs
    if as_json:
        print_json({kind.name: kind.payload.model_json_schema() for kind in jobs})
        return
    for kind in jobs:
        schema, title = kind.payload.model_json_schema(), f"{kind.name} ({_how_it_commits(kind)})"
        table = Table("field", "type", "required", title=plain(title), title_justify="left")
        fields = _resolved(schema, schema)
        for field, rules in fields.get("properties", {}).items():
            required = "yes" if field in fields.get("required", ()) else ""
            table.add_row(plain(field), plain(_type_of(rules, schema)), required)
        out.print(table)


def _how_it_commits(kind: Kind[Any, Any]) -> str:
    if kind.outside:
        return "works outside, then has its own commit"
    if kind.handle_many:
        return "many at once share a commit"
    return "shares commits" if kind.shares_commit else "own commit"


def _type_of(rules: dict[str, Any], schema: dict[str, Any]) -> str:
    rules = _resolved(rules, schema)
    choices = rules.get("enum") or ([rules["const"]] if "const" in rules else [])
    if choices:
        return " | ".join(map(str, choices))
    if parts := rules.get("anyOf") or rules.get("oneOf"):
        return " | ".join(_type_of(each, schema) for each in parts)
    if rules.get("type") == "array":
        items = rules.get("prefixItems") or [rules.get("items") or {}]
        return f"[{', '.join(_type_of(each, schema) for each in items)}]"
    return str(rules.get("format") or rules.get("type") or "any")


def _resolved(rules: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The rules, or those that they refer to."""
    named = rules.get("$ref", "").rpartition("/")[2]
    return schema["$defs"][named] if named else rules


@commands.command()
def dev(
    folder: Annotated[Path, typer.Option(help="Where the servers keep their data.")] = Path(
        ".ledgerq"
    ),
    reset: Annotated[bool, typer.Option("--reset", help="Wipe that data first.")] = False,
    queue: Queues = None,
    app: AppName = None,
) -> None:
    """Keep a PostgreSQL, a Redis and a worker running for development; data stays between runs."""
    run_dev(folder, require_app().tables, reset=reset, console=err, ini=alembic_ini())
