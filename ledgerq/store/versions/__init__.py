"""The versions of ledgerq's schema: numbered, frozen, each as SQL for PostgreSQL and for SQLite beside this file.

A version's statements may be run twice: they make nothing that exists already. A change of the schema is a new
version, with statements that undo it. A version's statements name every constraint, and the last one writes the version
into `schema_version`, with the oldest version of the code that can work on it.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ledgerq.database.own_schema import SCHEMA, in_schema
from ledgerq.errors import MigrationFailed

NEWEST = 4  # the version to which `ledgerq migrate` brings a database
NEEDED = 2  # the oldest version with which this code works

_FOLDER = Path(__file__).parent
_END = ";\n\n"  # of a statement: a semicolon and an empty line


def upgrading(dialect: str, found: int, to: int, schema: str = SCHEMA) -> Iterator[str]:
    """The statements that bring a database from one version to a later one."""
    for version in range(found + 1, _checked(to) + 1):
        yield from statements(f"v{version}", dialect, schema)


def downgrading(dialect: str, found: int, to: int, schema: str = SCHEMA) -> Iterator[str]:
    """The statements that bring a database from one version to an earlier one; 0 drops ledgerq's tables."""
    for version in range(found, _checked(to), -1):
        yield from statements(f"v{version}.down", dialect, schema)


def adopting(dialect: str, schema: str = SCHEMA) -> Iterator[str]:
    """The statements that turn the tables of ledgerq 0.1 into version 1; if there are none, they create version 1."""
    moves = dialect == "postgresql"  # on SQLite the tables stay where they are
    yield from statements("adopt", dialect, schema) if moves else ()
    yield from statements("v1", dialect, schema)
    yield from statements("adopted", dialect, schema) if moves else ()


@cache
def statements(name: str, dialect: str, schema: str = SCHEMA) -> tuple[str, ...]:
    """The SQL statements of a file beside this one."""
    sql = (_FOLDER / f"{name}.{dialect}.sql").read_text()
    if dialect == "postgresql":
        sql = in_schema(sql, schema)
    return tuple(each.strip().removesuffix(";") for each in f"{sql}\n".split(_END) if each.strip())


def _checked(version: int) -> int:
    if not 0 <= version <= NEWEST:
        raise MigrationFailed(
            f"to={version}: there is no such version of ledgerq's schema; give 0 to {NEWEST}"
        )
    return version
