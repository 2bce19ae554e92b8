"""What the role may do with our tables, and who keeps it from doing so. On SQLite there are no roles."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

from ledgerq.database.engine import Database, unreachable
from ledgerq.errors import SettingError
from ledgerq.store.tables import METADATA

LASTING = 5.0  # seconds after which a lock on a whole table is worth a word
_DELETED_FROM = ("processed_job", "outbox_message", "dead_letter", "unique_key")
_ONLY_ADDED_TO = ("audit_log",)
_STRONG = ("ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock")

_LACKING = text(
    "SELECT current_user, t, p FROM unnest(CAST(:tables AS text[]), CAST(:privileges AS text[])) AS v(t, p) "
    "WHERE NOT has_table_privilege(to_regclass(quote_ident(t)), p)"  # of a table that is not there, NULL
)
_UNUSABLE = text(
    "SELECT current_user, s.relname FROM pg_class AS s JOIN pg_depend AS d ON d.objid = s.oid AND d.deptype = 'a' "
    "JOIN pg_class AS t ON t.oid = d.refobjid WHERE t.relname = ANY(CAST(:tables AS text[])) "
    "AND t.oid = to_regclass(quote_ident(t.relname)) "  # in a CASE: else it may be asked of an index
    "AND CASE WHEN s.relkind = 'S' THEN NOT has_sequence_privilege(s.oid, 'USAGE') ELSE false END"
)
_LOCKS = text(
    "SELECT l.pid, a.application_name, c.relname, l.mode, extract(epoch FROM coalesce("
    "clock_timestamp() - a.xact_start, (SELECT max(clock_timestamp() - w.waitstart) FROM pg_locks AS w "
    "WHERE w.relation = l.relation AND w.database = l.database AND NOT w.granted))) AS seconds "
    "FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation JOIN pg_stat_activity AS a ON a.pid = l.pid "
    "WHERE l.granted AND l.locktype = 'relation' AND l.mode = ANY(CAST(:modes AS text[])) "
    "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    "AND c.relname = ANY(CAST(:tables AS text[])) AND l.pid <> pg_backend_pid()"
)


@dataclass(frozen=True, slots=True)
class MissingGrant:
    """What the role may not do with one of our tables."""

    role: str
    table: str
    privileges: tuple[str, ...]

    @property
    def problem(self) -> str:
        """Which table and privilege."""
        return f"role {self.role} lacks {', '.join(self.privileges)} on {self.table}"

    @property
    def cure(self) -> str:
        """The statement that mends it."""
        role = self.role.replace('"', '""')
        return f'GRANT {", ".join(self.privileges)} ON {self.table} TO "{role}"'


@dataclass(frozen=True, slots=True)
class LastingLock:
    """A lock on a whole table of ours that somebody has had for a while: writers wait behind it."""

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
    """What the role lacks on our tables, of what workers and producers do with them."""
    if database.config.is_sqlite:
        return []
    wanted = [(table, each) for table in _tables(database) for each in _privileges(table)]
    rows = await _all(
        database,
        _LACKING,
        tables=[table for table, _ in wanted],
        privileges=[privilege for _, privilege in wanted],
    )
    lacking = defaultdict(list)
    for role, table, privilege in rows:
        lacking[role, table].append(privilege)
    for role, sequence in await _all(database, _UNUSABLE, tables=_tables(database)):
        lacking[role, f"SEQUENCE {sequence}"].append("USAGE")
    return [MissingGrant(role, table, tuple(some)) for (role, table), some in lacking.items()]


async def require_grants(database: Database) -> None:
    """Refuse to begin as a role that can't do a worker's work.

    Raises:
        SettingError: with table, privilege, and the GRANT that mends it.
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
    """The locks on whole tables of ours that others have had for more than `LASTING` seconds."""
    if database.config.is_sqlite:
        return []
    rows = await _all(database, _LOCKS, modes=list(_STRONG), tables=_tables(database))
    found = [
        LastingLock(pid, name, table, mode, float(age or 0)) for pid, name, table, mode, age in rows
    ]
    return [each for each in found if each.seconds > LASTING]


async def read_only(database: Database) -> bool:
    """True if the server takes no writes from us: a standby, or made read-only."""
    if database.config.is_sqlite:
        return False
    asked = text("SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on'")
    return bool((await _all(database, asked))[0][0])


def _tables(database: Database) -> list[str]:
    each = (METADATA, *database.tables.metadata)
    return sorted(table.name for metadata in each for table in metadata.tables.values())


def _privileges(table: str) -> tuple[str, ...]:
    if table in _ONLY_ADDED_TO:
        return ("SELECT", "INSERT")
    more = ("DELETE",) if table in _DELETED_FROM else ()
    return ("SELECT", "INSERT", "UPDATE", *more)


async def _all(database: Database, statement: Any, **values: Any) -> list[Any]:
    async with database.engine.connect() as connection:
        return list((await connection.execute(statement, values)).all())
