"""Translates the database's errors to ledgerq's, by SQLSTATE and constraint name, never by the message.

SQLite has extended result codes instead of SQLSTATE (https://www.sqlite.org/rescode.html), which are as exact. Only on
SQLite, the column or constraint is read from the end of the message, whose form is fixed.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from asyncpg import PostgresError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.schema import CheckConstraint, Constraint, ForeignKeyConstraint, MetaData, Table

from ledgerq.errors import (
    AlreadyExists,
    ConstraintError,
    Deadlock,
    Disconnected,
    ErrorSwallowed,
    LedgerqError,
    LockTimeout,
    MissingReference,
    MissingValue,
    Refused,
    RuleBroken,
    SerializationFailure,
    StillReferenced,
    TooLong,
    Transient,
    Unavailable,
)
from ledgerq.text import leaves

STATEMENT_TIMEOUT = "57014"  # query_canceled
READ_ONLY = "25006"  # read_only_sql_transaction
FAILED_TRANSACTION = "25P02"  # in_failed_sql_transaction
FOREIGN = "ledgerq_foreign"  # set on an error of another database, which a handler uses itself

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_CONSTRAINTS: dict[str, type[ConstraintError]] = {
    "23000": RuleBroken,
    "23P01": RuleBroken,  # exclusion_violation
    "23001": StillReferenced,  # restrict_violation
    "23502": MissingValue,
    "23503": MissingReference,
    "23505": AlreadyExists,
    "23514": RuleBroken,
    "22001": TooLong,  # string_data_right_truncation
    "54000": TooLong,  # program_limit_exceeded: an index entry
}
_TRANSIENT: dict[str, type[Transient]] = {
    "40001": SerializationFailure,
    "40003": Disconnected,  # statement_completion_unknown
    "25P04": Disconnected,  # transaction_timeout
    "55006": LockTimeout,  # object_in_use
    "40P01": Deadlock,
    "55P03": LockTimeout,
    "25P03": Disconnected,  # idle_in_transaction_session_timeout
    READ_ONLY: Unavailable,  # still connected to a demoted primary
    STATEMENT_TIMEOUT: Unavailable,
}
_SKEW = {
    "42P01",  # undefined_table
    "42703",  # undefined_column
    "42883",  # undefined_function
    "42704",  # undefined_object
    "0A000",  # feature_not_supported: a prepared statement outlived a change of its table
}
_OF_THE_STATEMENT = {"53200", "53400"}  # the statement ran into a limit, for example of memory
_TRANSIENT_CLASSES: dict[str, type[Transient]] = {
    "08": Disconnected,
    "53": Unavailable,  # insufficient resources
    "57": Disconnected,  # operator intervention: shutdown
    "58": Unavailable,  # system error
}
_SQLITE: dict[int, type[ConstraintError] | type[Transient]] = {
    sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY: MissingReference,
    sqlite3.SQLITE_CONSTRAINT_UNIQUE: AlreadyExists,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: AlreadyExists,
    sqlite3.SQLITE_CONSTRAINT_NOTNULL: MissingValue,
    sqlite3.SQLITE_CONSTRAINT_CHECK: RuleBroken,
    sqlite3.SQLITE_BUSY: LockTimeout,
    sqlite3.SQLITE_LOCKED: LockTimeout,
    sqlite3.SQLITE_IOERR: Unavailable,
    sqlite3.SQLITE_FULL: Unavailable,
}


_known: list[MetaData] = []  # finds the columns of a constraint that an error names


def know(metadata: Iterable[MetaData]) -> None:
    """Register tables: errors about their constraints then name the columns."""
    _known.extend(each for each in metadata if each not in _known)


@contextmanager
def translated(*, deleting: bool = False) -> Iterator[None]:
    """Raise ledgerq's error in place of a database error of the block; one without a translation stays as it is.

    `deleting` says that the block deletes rows: a broken foreign key is then `StillReferenced`.
    """
    try:
        yield
    except DBAPIError as error:
        ours = translate(error)
        if ours is None:
            raise
        if deleting and isinstance(ours, MissingReference):
            ours = StillReferenced(ours.constraint, ours.fields)
        raise ours from error


@contextmanager
def connecting() -> Iterator[None]:
    """For a block that only gets a connection: its errors become ledgerq's, by default `Unavailable` or `Disconnected`."""
    try:
        with translated():
            yield
    except PoolTimeout as error:
        raise Unavailable from error
    except DBAPIError as error:  # even a refused login: the password may be changed just now
        raise Unavailable(sqlstate(error)) from error
    except (OSError, TimeoutError) as error:
        raise Disconnected from error
    except PostgresError as error:  # asyncpg raises its own errors while it connects
        state = str(error.sqlstate)
        raise (_transient_kind(state) or Unavailable)(state) from error


def translate(error: BaseException) -> LedgerqError | None:
    """Ledgerq's error for a database or connection error. An error of ledgerq is returned itself; None for all others."""
    if getattr(error, FOREIGN, False):
        return None
    if isinstance(error, LedgerqError):
        return error
    if isinstance(error, ConnectionError):
        return Disconnected()
    if not isinstance(error, DBAPIError):
        return None
    state = sqlstate(error)
    ours = _from_sqlstate(state, error) if state else _from_sqlite(error)
    return ours or (Disconnected(state) if error.connection_invalidated else None)


def _from_sqlstate(state: str, error: DBAPIError) -> LedgerqError | None:
    if state == FAILED_TRANSACTION:
        return ErrorSwallowed()
    if state in _CONSTRAINTS:
        name = _driver_attribute(error, "constraint_name")
        broken = _CONSTRAINTS[state]
        if broken is MissingReference and _is_of_the_other_end(error):
            broken = StillReferenced
        return _constraint_error(broken, name, error)
    kind = _transient_kind(state)
    return kind(state) if kind else None


def _is_of_the_other_end(error: DBAPIError) -> bool:
    """True if PostgreSQL says, in English, that the row which is changed or deleted has others that point at it."""
    return str(_driver_attribute(error, "message")).startswith("update or delete on table")


def _transient_kind(state: str) -> type[Transient] | None:
    if state in _OF_THE_STATEMENT:
        return None
    return _TRANSIENT.get(state) or _TRANSIENT_CLASSES.get(state[:2])


def sqlstate(error: BaseException) -> str | None:
    """The five-character SQLSTATE of an error of ledgerq's database; None on SQLite, and for other errors."""
    if not isinstance(error, DBAPIError) or getattr(error, FOREIGN, False):
        return None
    return getattr(error.orig, "sqlstate", None)


def is_transient(error: BaseException) -> bool:
    """True if the same work may succeed a moment later; False for any other error.

    True means: the connection to the database was lost or could not be made, the database was too busy, or another transaction was in
    the way: a deadlock, a serialization failure, a lock timeout.
    """
    return isinstance(error, TimeoutError) or isinstance(translate(error), Transient)


def is_interruption(error: BaseException) -> bool:
    """True if the connection is lost, or the server is away, read-only or out of resources. Costs a job no attempt."""
    if isinstance(error, ConnectionError):
        return False  # raised by the handler's own code: the driver's errors are of other classes
    ours = translate(error)
    return isinstance(ours, Disconnected) or (
        isinstance(ours, Unavailable) and ours.sqlstate != STATEMENT_TIMEOUT
    )


def is_of_the_server(error: BaseException) -> bool:
    """True if the error comes from the server's state: it is read-only, stopping or broken."""
    state = sqlstate(error) or ""
    return state == READ_ONLY or (state[:2] in {"57", "58", "XX"} and state != STATEMENT_TIMEOUT)


def is_skew(error: BaseException) -> bool:
    """True if schema and code don't fit, for example a column is missing: a deploy may be under way."""
    return sqlstate(error) in _SKEW


def is_grant_missing(error: BaseException) -> bool:
    """True if the role lacks a privilege; a deploy may be about to grant it."""
    return sqlstate(error) == "42501"  # insufficient_privilege


def is_contention(error: BaseException) -> bool:
    """True if the work waited too long for a lock that another transaction holds; False for a deadlock."""
    return isinstance(translate(error), LockTimeout)


def is_permanent(error: BaseException) -> bool:
    """True if the database refuses the data itself, so that the same work always fails."""
    state = sqlstate(error)
    in_data_class = state is not None and state.startswith("22")
    return in_data_class or isinstance(translate(error), Refused)


def _constraint_error(
    kind: type[ConstraintError], constraint: str | None, error: DBAPIError
) -> ConstraintError:
    column = _driver_attribute(error, "column_name")
    fields = (column,) if column else _fields_of(constraint)
    if kind is RuleBroken and constraint and constraint.endswith("_length"):
        kind = TooLong
    return kind(constraint, fields)


def _fields_of(name: str | None) -> tuple[str, ...]:
    """The columns of a constraint of a table that `know` registered; empty if there is none."""
    for metadata in _known:
        for table in metadata.tables.values():
            for constraint in table.constraints:
                if name is not None and constraint.name == name:
                    return _columns(table, constraint, name)
    return ()


def _columns(table: Table, constraint: Constraint, name: str) -> tuple[str, ...]:
    if isinstance(constraint, CheckConstraint):
        about = name.removeprefix(f"ck_{table.name}_")
        return tuple(column.name for column in table.columns if about.startswith(column.name))
    if isinstance(constraint, ForeignKeyConstraint):
        return (constraint.column_keys[0],)
    return tuple(column.name for column in getattr(constraint, "columns", ()))


def _driver_attribute(error: DBAPIError, name: str) -> str | None:
    driver_error = getattr(error.orig, "__cause__", None) or error.orig
    return getattr(driver_error, name, None)


def _from_sqlite(error: DBAPIError) -> LedgerqError | None:
    driver_error = error.orig
    if not isinstance(driver_error, sqlite3.Error):
        return None
    code = getattr(driver_error, "sqlite_errorcode", 0)
    kind = _SQLITE.get(code) or _SQLITE.get(code & 0xFF)
    if kind is None:
        return None
    if issubclass(kind, Transient):
        return kind()
    tail = str(driver_error).rpartition(": ")[2]
    if kind is RuleBroken:
        return _constraint_error(RuleBroken, tail, error)
    columns = tuple(each.rpartition(".")[2] for each in tail.split(", ") if "." in each)
    return kind(None, columns)


def mark_foreign(error: BaseException) -> None:
    """Mark an error of a call outside as not this database's: another database's errors say nothing of this one."""
    for each in leaves(error):
        each.__dict__.setdefault(FOREIGN, True)
