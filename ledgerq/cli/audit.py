"""`ledgerq audit`: shows the entries of an entity or of a job; attaches and detaches the triggers of a table."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ledgerq.admin import audit as audit_admin
from ledgerq.admin.connections import open_current_database
from ledgerq.cli.find_app import AppName, tables_of_app
from ledgerq.cli.limits import LIMIT, run_within
from ledgerq.cli.options import AsJson, checked_ids
from ledgerq.cli.output import print_json, print_rows, say
from ledgerq.database.engine import Database, Tables, open_database
from ledgerq.database.settings import DatabaseConfig
from ledgerq.errors import UsageError
from ledgerq.settings import load
from ledgerq.store import audit
from ledgerq.store.tables import AuditLog

MAX_SHOWN = 1_000  # entries of one page

TableName = Annotated[
    str, typer.Argument(metavar="TABLE", help="The table, with its schema if need be.")
]
OnlySql = Annotated[bool, typer.Option("--sql", help="Print the statements; change nothing.")]
Columns = list[str]


class _ShowsByDefault(TyperGroup):
    """`ledgerq audit ENTITY ID` is `ledgerq audit show ENTITY ID`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `show` before the arguments, if they begin with no command."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["show", *args]
        return super().parse_args(ctx, args)


def add_to(root: typer.Typer) -> None:
    """Register the commands."""
    group = typer.Typer(
        cls=_ShowsByDefault,
        no_args_is_help=True,
        help="The audit log: `ledgerq audit ENTITY ID`, `ledgerq audit --job ID`.",
    )
    group.command()(show)
    group.command()(attach)
    group.command()(detach)
    root.add_typer(group, name="audit")


def show(
    entity: Annotated[
        str | None, typer.Argument(metavar="[ENTITY]", help="The name of its table.")
    ] = None,
    entity_id: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="Its key; parts of a composite key with commas."),
    ] = None,
    job: Annotated[str | None, typer.Option(metavar="ID", help="Show a job's entries.")] = None,
    after: Annotated[int, typer.Option(min=0, help="Only entries after this number.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=MAX_SHOWN, help="The most to show.")] = 100,
    app: AppName = None,
    as_json: AsJson = False,
) -> None:
    """Show what happened to an entity, or what a job did: oldest first, a page at a time."""
    if job is not None:
        if entity is not None:
            raise UsageError("--job", "stands beside an entity", "give one of them")
        [job] = checked_ids([job])
    elif entity is None or entity_id is None:
        raise UsageError(
            "ENTITY ID", "is missing", "name a table and a key, or give a job by --job"
        )
    work = _entries(tables_of_app(), entity or "", entity_id or "", job, after, limit)
    entries = run_within(LIMIT, work)
    following = entries[-1].id if len(entries) == limit else None
    if as_json:
        print_json({"entries": [each.model_dump() for each in entries], "after": following})
        return
    if not entries:
        what = f"job {job}" if job is not None else f"{entity} {entity_id}"
        say(f"The audit log has no entry of {what}" + (f" after {after}." if after else "."))
        return
    print_rows(("entry", "at", "actor", "action", "entity", "job", "changed"), map(_row, entries))
    if following:
        say(f"There may be more: --after {following}")


def attach(
    table: TableName,
    mask: Annotated[
        Columns | None, typer.Option(metavar="COLUMN", help="Show its values as `***`.")
    ] = None,
    exclude: Annotated[Columns | None, typer.Option(metavar="COLUMN", help="Leave it out.")] = None,
    sql: OnlySql = False,
    app: AppName = None,
) -> None:
    """Let PostgreSQL write the audit entries of a table in place of ledgerq: then bulk statements and SQL leave entries too."""

    async def statements(database: Database) -> Sequence[str]:
        return await audit_admin.attach(database, table, mask or (), exclude or ())

    _change(statements, f"PostgreSQL audits {table}.", sql=sql)


def detach(table: TableName, sql: OnlySql = False, app: AppName = None) -> None:
    """Stop PostgreSQL from auditing a table; the entries stay."""

    async def statements(database: Database) -> Sequence[str]:
        return await audit_admin.detach(database, table)

    _change(statements, f"PostgreSQL does not audit {table}.", sql=sql)


def _change(
    statements: Callable[[Database], Awaitable[Sequence[str]]], done: str, *, sql: bool
) -> None:
    tables = tables_of_app()

    async def work() -> Sequence[str]:
        async with open_database(tables=tables) as database:
            await database.ping()
            made = await statements(database)
            if not sql:
                await audit_admin.run(database, made)
            return made

    made = run_within(LIMIT, work())
    if sql:
        for statement in made:
            typer.echo(f"{statement};\n")
    else:
        say(done)


async def _entries(
    tables: Tables, entity: str, entity_id: str, job: str | None, after: int, limit: int
) -> Sequence[AuditLog]:
    opened = open_current_database(load(DatabaseConfig), tables)
    async with opened as sessions, sessions() as session:
        if job is not None:
            return await audit.of_job(session, job, after_id=after, limit=limit)
        return await audit.history(session, entity, entity_id, after_id=after, limit=limit)


def _row(entry: AuditLog) -> tuple[object, ...]:
    changed = {
        field: [entry.before.get(field), entry.after.get(field)]
        if field in entry.before and field in entry.after
        else entry.after.get(field, entry.before.get(field))
        for field in [*entry.before, *(each for each in entry.after if each not in entry.before)]
    }
    of = f"{entry.entity_type} {entry.entity_id}"
    return entry.id, entry.at, entry.actor, entry.action, of, entry.job_id, changed
