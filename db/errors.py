"""Our errors, and how a database error becomes one.

    LedgerqError                    everything that is ours; its text is one line for a person
    ├── SettingError                a setting is missing or wrong: names it, the problem and the cure
    ├── Unreachable                 a server does not answer
    ├── SchemaBehind                the database's schema is not the one this code was written for
    └── Refused                     the data does not allow it; trying again cannot help
        ├── NotFound                no such row
        ├── MissingReference        a row points at one that does not exist
        ├── IllegalStatusChange     a task's status may not move that way
        └── ConstraintViolated      any other rule that the database holds

A failure that a second try may cure stays the driver's own error; `is_transient` tells it by its SQLSTATE.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, IntegrityError


class LedgerqError(Exception):
    """The root of all our errors."""


class SettingError(LedgerqError):
    """A setting is missing or wrong."""

    def __init__(self, setting: str, problem: str, cure: str) -> None:
        self.setting, self.problem, self.cure = setting, problem, cure
        super().__init__(f"{setting}: {problem}; {cure}")


class Unreachable(LedgerqError):
    """A server does not answer. `address` must carry no password."""

    def __init__(self, setting: str, address: str, reason: str) -> None:
        self.setting, self.address, self.reason = setting, address, reason
        super().__init__(
            f"{setting}: no answer from {address} ({reason}); "
            "start the server there or point the setting to one that runs"
        )


class SchemaBehind(LedgerqError):
    """The database's schema is not the one this code was written for."""

    def __init__(self, found: str | None, expected: str) -> None:
        self.found, self.expected = found, expected
        super().__init__(
            f"DATABASE_URL: the schema is at {found or 'nothing'}, this code needs {expected}; "
            "run: ledgerq migrate"
        )


class Refused(LedgerqError):
    """The data does not allow it; trying again cannot help. `field` is the input field at fault."""

    def __init__(self, field: str, problem: str) -> None:
        self.field, self.problem = field, problem
        super().__init__(f"{field}: {problem}")


class NotFound(Refused):
    """No such row, or it is deleted."""

    def __init__(self, entity: str, entity_id: int) -> None:
        self.entity, self.entity_id = entity, entity_id
        super().__init__(f"{entity}_id", f"there is no {entity} {entity_id}")


class MissingReference(Refused):
    """A row points at one that does not exist."""

    def __init__(self, field: str) -> None:
        super().__init__(field, "points at a row that does not exist")


class IllegalStatusChange(Refused):
    """A task's status may not move that way; `db.models.task.LEGAL_MOVES` says how it may."""

    def __init__(self, task_id: int, current: str, wanted: str, legal: tuple[str, ...]) -> None:
        self.task_id, self.current, self.wanted, self.legal = task_id, current, wanted, legal
        super().__init__(
            "status",
            f"task {task_id} may not move from {current} to {wanted}; "
            f"from {current} it may move to {', '.join(legal)}",
        )


class ConstraintViolated(Refused):
    """A rule that the database holds forbids the write."""

    def __init__(self, constraint: str | None) -> None:
        self.constraint = constraint
        super().__init__(constraint or "row", "the database refuses it by a constraint")


_FOREIGN_KEY = "23503"
_SQLITE_FOREIGN_KEY = 787  # SQLITE_CONSTRAINT_FOREIGNKEY


@contextmanager
def refusals() -> Iterator[None]:
    """Turn a constraint violation inside the block into the `Refused` that names the field."""
    try:
        yield
    except IntegrityError as error:
        raise _refusal(error) from error


def _refusal(error: IntegrityError) -> Refused:
    driver_error = error.orig.__cause__ if error.orig and error.orig.__cause__ else error.orig
    constraint = getattr(driver_error, "constraint_name", None)
    if sqlstate(error) == _FOREIGN_KEY and constraint:
        return MissingReference(_foreign_key_column(constraint))
    if getattr(driver_error, "sqlite_errorcode", None) == _SQLITE_FOREIGN_KEY:
        return MissingReference("a reference")  # SQLite does not say which
    return ConstraintViolated(constraint)


def _foreign_key_column(constraint: str) -> str:
    """`fk_task_project_id_project` is about `project_id`: see NAMING_CONVENTION in db.models.base."""
    _, _, rest = constraint.split("_", 2)
    return rest.rsplit("_", 1)[0]


def sqlstate(error: BaseException) -> str | None:
    """The five-character SQLSTATE of a PostgreSQL error, or None."""
    return getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None


# https://www.postgresql.org/docs/current/errcodes-appendix.html
_TRANSIENT_CLASSES = ("08", "53", "57")  # connection, resources, operator intervention
_TRANSIENT_STATES = {
    "40001",  # serialization_failure
    "40P01",  # deadlock_detected
    "55P03",  # lock_not_available
    "25P03",  # idle_in_transaction_session_timeout
    "25006",  # read_only_sql_transaction: we are still connected to a demoted primary
}
_PERMANENT_CLASSES = ("22", "23")  # data, constraint


def is_transient(error: BaseException) -> bool:
    """True if the same work may succeed a moment later: a lost connection, a deadlock, a lock wait."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    state = sqlstate(error)
    if state is None:
        return error.connection_invalidated
    return state in _TRANSIENT_STATES or state.startswith(_TRANSIENT_CLASSES)


def is_permanent(error: BaseException) -> bool:
    """True if the database refuses the data itself, so that the same work always fails."""
    state = sqlstate(error)
    return state is not None and state.startswith(_PERMANENT_CLASSES)
