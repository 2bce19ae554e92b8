"""The rights of the database's role on the tables, and the locks that block it. On SQLite there are no roles."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

from ledgerq.database.engine import Database, unreachable
from ledgerq.database.own_schema import quoted
from ledgerq.errors import SettingError
from ledgerq.store.tables import METADATA

LASTING = 5.0  # seconds after which a lock on a whole table is reported
_DELETED_FROM = (
    "processed_job",
    "job_step",
    "job_progress",
    "outbox_message",
    "dead_letter",
    "unique_key",
)
_ONLY_ADDED_TO = ("audit_log",)
_ONLY_READ = ("schema_version",)
_STRONG = ("ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock")

# read from the catalogue, which every role may read; to_regclass would need a right to the schema
_TABLES = (
    "WITH t AS (SELECT c.oid, wanted.* FROM unnest(CAST(:schemas AS text[]), CAST(:tables AS text[])) "
    "AS wanted(schema, name) JOIN pg_class AS c ON c.relname = wanted.name AND c.relkind IN ('r', 'p') "
    "JOIN pg_namespace AS n ON n.oid = c.relnamespace "
    "WHERE CASE wanted.schema WHEN '' THEN pg_table_is_visible(c.oid) ELSE n.nspname = wanted.schema END) "
)
_NO_SCHEMA = text(
    "SELECT DISTINCT current_user, quote_ident(n.nspname) FROM pg_namespace AS n "
    "WHERE n.nspname = ANY(CAST(:schemas AS text[])) AND NOT has_schema_privilege(n.oid, 'USAGE')"
)
_LACKING = text(
    f"{_TABLES} SELECT current_user, t.schema, t.name, p FROM t JOIN unnest(CAST(:names AS text[]), "  # noqa: S608 - our own words
    "CAST(:privileges AS text[])) WITH ORDINALITY AS v(name, p, place) ON v.name = t.name "
    "WHERE NOT has_table_privilege(t.oid, p) ORDER BY t.schema, place"
)
_UNUSABLE = text(
    f"{_TABLES} SELECT current_user, t.schema, s.relname FROM t JOIN pg_depend AS d "  # noqa: S608 - as above
    "ON d.refobjid = t.oid AND d.deptype = 'a' JOIN pg_class AS s ON s.oid = d.objid "
    # in a CASE, so that has_sequence_privilege is called for sequences only: it fails for an index
    "WHERE CASE WHEN s.relkind = 'S' THEN NOT has_sequence_privilege(s.oid, 'USAGE') ELSE false END"
)
_LOCKS = text(
    f"{_TABLES} SELECT l.pid, a.application_name, t.name, l.mode, extract(epoch FROM coalesce("  # noqa: S608 - as above
    "clock_timestamp() - a.xact_start, (SELECT max(clock_timestamp() - w.waitstart) FROM pg_locks AS w "
    "WHERE w.relation = l.relation AND w.database = l.database AND NOT w.granted))) AS seconds "
    "FROM pg_locks AS l JOIN t ON t.oid = l.relation JOIN pg_stat_activity AS a ON a.pid = l.pid "
    "WHERE l.granted AND l.locktype = 'relation' AND l.mode = ANY(CAST(:modes AS text[])) "
    "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    "AND l.pid <> pg_backend_pid()"
)


@dataclass(frozen=True, slots=True)
class MissingGrant:
    """Privileges that the database role `role` lacks on one table, sequence or schema."""

    role: str
    table: str
    privileges: tuple[str, ...]

    @property
    def problem(self) -> str:
        """A sentence with the role, the privileges and the table."""
        return f"role {self.role} lacks {', '.join(self.privileges)} on {self.table}"

    @property
    def cure(self) -> str:
        """The GRANT statement that gives the privileges to the role."""
        role = self.role.replace('"', '""')
        return f'GRANT {", ".join(self.privileges)} ON {self.table} TO "{role}"'


@dataclass(frozen=True, slots=True)
class LastingLock:
    """A lock on a whole table that another session has held for `seconds`: writers wait for it."""

    pid: int
    application: str
    table: str
    mode: str
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.table} is locked ({self.mode}) for {self.seconds:.0f} s by process {self.pid}, "
            f"application {self.application!r}"
        )


async def missing_grants(database: Database) -> list[MissingGrant]:
    """The privileges that workers and producers need on the tables and that the role lacks."""
    if database.config.is_sqlite:
        return []
    tables = _tables(database)
    wanted = [(name, each) for name in sorted(set(tables["tables"])) for each in _privileges(name)]
    lacking = defaultdict(list)
    for role, schema in await _all(database, _NO_SCHEMA, schemas=tables["schemas"]):
        lacking[role, f"SCHEMA {schema}"].append("USAGE")
    names, privileges = map(list, zip(*wanted, strict=True))
    for role, schema, table, privilege in await _all(
        database, _LACKING, **tables, names=names, privileges=privileges
    ):
        lacking[role, _place(schema, table)].append(privilege)
    for role, schema, sequence in await _all(database, _UNUSABLE, **tables):
        lacking[role, f"SEQUENCE {_place(schema, sequence)}"].append("USAGE")
    return [MissingGrant(role, table, tuple(some)) for (role, table), some in lacking.items()]


async def require_grants(database: Database) -> None:
    """Refuse to start with a role that lacks privileges.

    Raises:
        SettingError: the role lacks a privilege; names the table and the GRANT to run.
        Unreachable: the database does not answer.
    """
    with unreachable(database.config):
        lacks = await missing_grants(database)
    if lacks:
        problem = ", ".join(each.problem for each in lacks)
        raise SettingError(
            "DATABASE_URL", problem, f"run: {'; '.join(each.cure for each in lacks)}"
        )


async def lasting_locks(database: Database) -> list[LastingLock]:
    """The locks on whole tables that other sessions have held for more than `LASTING` seconds."""
    if database.config.is_sqlite:
        return []
    rows = await _all(database, _LOCKS, modes=list(_STRONG), **_tables(database))
    found = [
        LastingLock(pid, name, table, mode, float(age or 0)) for pid, name, table, mode, age in rows
    ]
    return [each for each in found if each.seconds > LASTING]


async def read_only(database: Database) -> bool:
    """True if the server refuses writes: it is a standby, or set to read-only."""
    if database.config.is_sqlite:
        return False
    asked = text("SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on'")
    return bool((await _all(database, asked))[0][0])


def _tables(database: Database) -> dict[str, list[str]]:
    """ledgerq's tables and the application's, each with its schema; '' where the search_path finds the table."""
    theirs = [table for metadata in database.tables.metadata for table in metadata.tables.values()]
    both = [(database.tables.schema, table.name) for table in METADATA.tables.values()]
    both += [(table.schema or "", table.name) for table in theirs]
    schemas, names = map(list, zip(*sorted(both), strict=True))
    return {"schemas": schemas, "tables": names}


def _place(schema: str, name: str) -> str:
    return f"{quoted(schema)}.{quoted(name)}" if schema else quoted(name)


def _privileges(table: str) -> tuple[str, ...]:
    if table in _ONLY_READ:
        return ("SELECT",)
    if table in _ONLY_ADDED_TO:
        return ("SELECT", "INSERT")
    more = ("DELETE",) if table in _DELETED_FROM else ()
    return ("SELECT", "INSERT", "UPDATE", *more)


async def _all(database: Database, statement: Any, **values: Any) -> list[Any]:
    async with database.engine.connect() as connection:
        return list((await connection.execute(statement, values)).all())
