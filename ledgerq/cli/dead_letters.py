"""`ledgerq dead`: list and show dead letters, replay or discard them."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

import typer
from arq.connections import ArqRedis

from ledgerq.admin import dead_letters as letters
from ledgerq.admin.connections import open_current_database, open_redis_and_database
from ledgerq.admin.dead_letters import BulkResult, ReplayResult
from ledgerq.cli.find_app import AppName, require_app, tables_of_app
from ledgerq.cli.limits import LIMIT, run_within
from ledgerq.cli.options import (
    NO_REASON,
    Actor,
    AsJson,
    Because,
    checked_ids,
    checked_payload,
    for_the_log,
)
from ledgerq.cli.output import (
    complain,
    out,
    print_attempts,
    print_fields,
    print_json,
    print_rows,
    say,
)
from ledgerq.config import load_config
from ledgerq.database.engine import Sessions
from ledgerq.database.settings import DatabaseConfig
from ledgerq.errors import NotBuried, UsageError
from ledgerq.settings import load
from ledgerq.store import dead_letters
from ledgerq.store.dead_letters import ALL, DeadLetterFilter
from ledgerq.store.tables import DeadLetter
from ledgerq.text import spelt_out
from ledgerq.wire.payload_fields import fields_as_values

T = TypeVar("T")

SWEEP = 3600.0  # seconds for a command that takes all letters, page by page

commands = typer.Typer(
    help="The dead letters: jobs that will not be tried again unless somebody replays them.",
    no_args_is_help=True,
)

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="The jobs' ids.")]
All = Annotated[bool, typer.Option("--all", help="All letters, or all that match the filters.")]
OfKind = Annotated[str | None, typer.Option("--kind", help="Only letters of this kind.")]
OfReason = Annotated[str | None, typer.Option("--reason", help="Only letters with this reason.")]
OfFingerprint = Annotated[
    str | None, typer.Option("--fingerprint", help="Only jobs that failed in this same way.")
]


_SHOWN = (
    "job_id", "kind", "queue", "reason", "error", "actor", "trace_id", "worker", "attempt", "buried_at",
    "fingerprint", "payload",
)  # fmt: skip


def add_to(root: typer.Typer) -> None:
    """Register the commands."""
    root.add_typer(commands, name="dead")


@commands.command("list")
def list_(
    kind: OfKind = None,
    reason: OfReason = None,
    fingerprint: OfFingerprint = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The most to show.")] = 50,
    group: Annotated[
        bool, typer.Option("--group", help="Count jobs that failed in the same way.")
    ] = False,
    app: AppName = None,
    as_json: AsJson = False,
) -> None:
    """List the letters, the newest first; with --group, the most frequent failure first."""
    which = DeadLetterFilter(kind, reason, fingerprint)

    async def look(sessions: Sessions) -> list[tuple[int | None, DeadLetter]]:
        async with sessions() as session:
            if group:
                return list(await dead_letters.groups(session, which, limit=limit))
            newest = await dead_letters.newest(session, which, limit=limit, brief=True)
            return [(None, letter) for letter in newest]

    found = run_within(LIMIT, _on_database(look))
    if as_json:
        print_json({"groups" if group else "letters": [_brief(*each) for each in found]})
    elif not found:
        say("no dead letters" if which == ALL else "no such dead letters")
    elif group:
        print_rows(
            ("count", "newest", "kind", "reason", "fingerprint", "error"),
            [
                (n, at.buried_at, at.kind, at.reason, at.fingerprint, at.error[:200])
                for n, at in found
            ],
        )
    else:
        print_rows(
            ("job", "buried", "kind", "reason", "error"),
            [(at.job_id, at.buried_at, at.kind, at.reason, at.error[:200]) for _, at in found],
        )


@commands.command()
def show(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="The job's id.")],
    app: AppName = None,
    as_json: AsJson = False,
) -> None:
    """Show one letter: payload or raw bytes, invalid fields, attempts, traceback."""
    checked_ids([job_id])

    async def look(sessions: Sessions) -> DeadLetter | None:
        async with sessions() as session:
            return await dead_letters.find(session, job_id)

    letter = run_within(LIMIT, _on_database(look))
    if letter is None:
        raise NotBuried([job_id])
    if as_json:
        print_json(letter.model_dump())
        return
    print_fields({name: getattr(letter, name) for name in _SHOWN})
    print_fields({"raw": repr(letter.raw[:2000]) if letter.raw else None})
    for each in letter.problems or ():
        print_fields({"problem": each})
    print_attempts(letter.attempts or ())
    for line in (letter.traceback or "").splitlines():
        out.print(spelt_out(line), markup=False, highlight=False, soft_wrap=True)


@commands.command()
def replay(
    job_ids: Ids = None,
    every: All = False,
    kind: Annotated[
        str | None, typer.Option(help="Run it as this kind; with --all, only letters of it.")
    ] = None,
    reason: OfReason = None,
    fingerprint: OfFingerprint = None,
    payload: Annotated[
        str | None, typer.Option(help="Run it with these fields, a JSON object.")
    ] = None,
    new_id: Annotated[str | None, typer.Option(help="Run it as a new job of this id.")] = None,
    from_step: Annotated[str | None, typer.Option(help="Do steps again, from this one on.")] = None,
    because: Because = NO_REASON,
    actor: Actor = None,
    app: AppName = None,
    as_json: AsJson = False,
) -> None:
    """Run dead jobs once more, with their payload or an edited one."""
    ids = _chosen(job_ids, every, {"--reason": reason, "--fingerprint": fingerprint})
    if every or len(ids) > 1:
        of_one = {"--payload": payload, "--new-id": new_id, "--from-step": from_step}
        _refuse(of_one, "is for one job", "name one")
    said = for_the_log(actor, because)
    if every:
        which = DeadLetterFilter(kind, reason, fingerprint)
        result = run_within(
            SWEEP, _on_both(lambda r, s, queue: letters.replay_all(r, s, queue, which, **said))
        )
        _show_bulk_result("replayed", result, as_json=as_json)
        return

    async def mend(redis: ArqRedis, sessions: Sessions, queue: str) -> ReplayResult:
        fields = await _fields(sessions, ids[0], kind, payload)
        edit: dict[str, Any] = {"kind": kind, "new_job_id": new_id, "from_step": from_step, **said}
        return await letters.replay(redis, sessions, queue, ids, payload=fields, **edit)

    _show_replayed(run_within(LIMIT, _on_both(mend)), as_json=as_json)


@commands.command()
def discard(
    job_ids: Ids = None,
    every: All = False,
    kind: OfKind = None,
    reason: OfReason = None,
    fingerprint: OfFingerprint = None,
    because: Because = NO_REASON,
    actor: Actor = None,
    app: AppName = None,
    as_json: AsJson = False,
) -> None:
    """Delete letters: their jobs stay dead for good. The audit log keeps who did it."""
    filters = {"--kind": kind, "--reason": reason, "--fingerprint": fingerprint}
    ids = _chosen(job_ids, every, filters)
    said = for_the_log(actor, because)
    if every:
        which = DeadLetterFilter(kind, reason, fingerprint)
        work = _on_database(lambda s: letters.discard_all(s, which, **said))
        result = run_within(SWEEP, work)
        _show_bulk_result("discarded", result, as_json=as_json)
        return
    discarded = run_within(LIMIT, _on_database(lambda s: letters.discard(s, ids, **said)))
    if as_json:
        print_json({"discarded": discarded})
        return
    for job_id in discarded:
        say(f"{job_id} is discarded")


def _chosen(job_ids: list[str] | None, every: bool, filters: Mapping[str, str | None]) -> list[str]:
    """The ids that were named; empty with --all. Refuses both, neither, and filters without --all."""
    if every and job_ids:
        raise UsageError("ID", "is given beside --all", "give one or the other")
    if not every:
        if not job_ids:
            raise UsageError("ID", "is missing", "name the jobs, or give --all")
        _refuse(filters, "belongs to --all", "leave it out, or give --all and no id")
    return checked_ids(job_ids or [])


def _refuse(options: Mapping[str, str | None], problem: str, cure: str) -> None:
    for option, value in options.items():
        if value is not None:
            raise UsageError(option, problem, cure)


async def _fields(
    sessions: Sessions, job_id: str, kind: str | None, payload: str | None
) -> dict[str, Any] | None:
    """The edited payload, checked by the rules of the job's new kind, or else of its own; None if none is given."""
    if payload is None:
        if kind is not None:
            require_app().registry().kind(kind)
        return None
    async with sessions() as session:
        letter = await dead_letters.find(session, job_id)
    if letter is None:
        raise NotBuried([job_id])
    if (named := kind or letter.kind) is None:
        raise UsageError("--kind", "is missing", f"the letter of job {job_id} names none: give it")
    return fields_as_values(checked_payload(named, payload))


def _show_replayed(result: ReplayResult, *, as_json: bool) -> None:
    _warn(redis_reached=result.redis_reached)
    if as_json:
        print_json({"replayed": [asdict(each) for each in result.jobs]})
        return
    for each in result.jobs:
        say(f"{each.letter_of} is staged again, as {each.kind} under the id {each.job_id}")
        if again := ", ".join(each.done_again):
            complain(f"ledgerq: done again, so its effect may happen twice: {again}")


def _show_bulk_result(what: str, result: BulkResult, *, as_json: bool) -> None:
    left = [str(each) for each in result.obstacles]
    _warn(redis_reached=result.redis_reached)
    if as_json:
        print_json({what: result.taken, "left": result.left, "obstacles": left})
        return
    say(f"{result.taken} {what}" + (f", {result.left} left as they are:" if result.left else ""))
    for line in left:
        say(line)


def _warn(*, redis_reached: bool) -> None:
    if not redis_reached:
        complain(
            "ledgerq: REDIS_URL: Redis does not answer; the jobs run when it does, and if it "
            "still has an old payload of one, that comes first"
        )


def _brief(count: int | None, letter: DeadLetter) -> dict[str, Any]:
    row = letter.model_dump(exclude={"raw", "traceback", "payload", "attempts"})
    return row if count is None else {"count": count, **row}


def _on_database(work: Callable[[Sessions], Awaitable[T]]) -> Coroutine[Any, Any, T]:
    config, tables = load(DatabaseConfig), tables_of_app()  # imports the service's code

    async def run() -> T:
        async with open_current_database(config, tables) as sessions:
            return await work(sessions)

    return run()


def _on_both(work: Callable[[ArqRedis, Sessions, str], Awaitable[T]]) -> Coroutine[Any, Any, T]:
    config, tables = load_config(), tables_of_app()

    async def run() -> T:
        async with open_redis_and_database(config, tables) as (redis, sessions):
            return await work(redis, sessions, config.worker.queue)

    return run()
