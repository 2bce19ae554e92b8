"""`ledgerq dead resolve`: what a person knows of a step in doubt."""

from typing import Annotated, Any

import typer
from pydantic_core import from_json

from ledgerq.admin.connections import open_current_database
from ledgerq.admin.steps import resolve as resolve_step
from ledgerq.cli.find_app import AppName, tables_of_app
from ledgerq.cli.limits import LIMIT, run_within
from ledgerq.cli.options import NO_REASON, Actor, Because, checked_ids, for_the_log
from ledgerq.cli.output import say
from ledgerq.database.engine import Tables
from ledgerq.database.settings import DatabaseConfig
from ledgerq.errors import UsageError
from ledgerq.settings import load


def add_to(group: typer.Typer) -> None:
    """Register the command among those of `ledgerq dead`."""
    group.command()(resolve)


def resolve(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="The job's id.")],
    step: Annotated[str, typer.Option(metavar="NAME", help="The step that is in doubt.")],
    happened: Annotated[
        str | None, typer.Option(metavar="ANSWER", help="It happened, and answered this JSON.")
    ] = None,
    did_not_happen: Annotated[
        bool, typer.Option("--did-not-happen", help="It did not: the job does it again.")
    ] = False,
    because: Because = NO_REASON,
    actor: Actor = None,
    app: AppName = None,
) -> None:
    """Say whether a step in doubt has happened; then replay its job, which goes on from there."""
    checked_ids([job_id])
    if (happened is None) != did_not_happen:
        raise UsageError(
            "--happened", "or --did-not-happen: give one of the two", "look at the other side first"
        )
    work = _resolve(
        tables_of_app(), job_id, step, happened=not did_not_happen, answer=_answer(happened), **for_the_log(actor, because)
    )  # fmt: skip
    run_within(LIMIT, work)
    said = "is done again" if did_not_happen else "counts as done"
    say(f"step {step} of job {job_id} {said}; run: ledgerq dead replay {job_id}")


def _answer(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return from_json(text, allow_inf_nan=False)
    except (ValueError, TypeError) as error:  # TypeError: bytes that are no text
        raise UsageError("--happened", f"is no JSON ({error})", 'a text is "in quotes"') from None


async def _resolve(tables: Tables, job_id: str, step: str, **said: Any) -> None:
    async with open_current_database(load(DatabaseConfig), tables) as sessions:
        await resolve_step(sessions, job_id, step, **said)
