"""`ledgerq migrate`: runs the application's own migrations, then upgrades ledgerq's tables."""

import asyncio
from typing import Annotated

import typer

from ledgerq.cli.find_app import AppName, alembic_ini, tables_of_app
from ledgerq.cli.output import say
from ledgerq.database.engine import Tables, open_database
from ledgerq.database.settings import DatabaseConfig
from ledgerq.settings import load
from ledgerq.store.migration import migrate as migrate_database
from ledgerq.store.migration import print_sql
from ledgerq.store.schema import current_revision, current_version


def add_to(commands: typer.Typer) -> None:
    """Register the command."""
    commands.command()(migrate)


def migrate(
    revision: Annotated[
        str, typer.Argument(help="How far to go in the app's own history, by Alembic's names.")
    ] = "head",
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the script for an empty database, and run nothing.")
    ] = False,
    app: AppName = None,
) -> None:
    """Bring the database's tables up to date: the app's own, then ledgerq's."""
    config, tables, ini = load(DatabaseConfig), tables_of_app(), alembic_ini()
    if sql:
        print_sql(config, tables, ini=ini)
        return
    migrate_database(config, tables, revision, ini=ini)
    own = ini is not None or tables.migrations is not None
    say(asyncio.run(_reached(config, tables, own=own)))


async def _reached(config: DatabaseConfig, tables: Tables, *, own: bool) -> str:
    async with open_database(config, tables) as database:
        ours = f"ledgerq's tables are at version {await current_version(database)}"
        return (
            f"{ours}, the app's own at {await current_revision(database)}." if own else f"{ours}."
        )
