"""Errors of the data and the database, which `ledgerq.database.sqlstate` translates from the driver's errors."""

from ledgerq.errors.base import LedgerqError


class Refused(LedgerqError):
    """The data does not allow the work; a retry cannot help. `field` names the invalid input.

    ```python
    if order.status == "closed":
        raise Refused("order_id", "is closed already")
    ```
    """

    def __init__(self, field: str, problem: str) -> None:
        self.field, self.problem = field, problem
        super().__init__(f"{field}: {problem}")


class NotAudited(Refused):
    """A row of an audited class would change without an audit entry, or without an author in it."""

    @classmethod
    def without_origin(cls, entity_type: str) -> "NotAudited":
        """The error for a change whose author is not known."""
        return cls(
            entity_type,
            "is audited, and nobody has said who changes it; change it in a job, or inside of "
            "`async with audit.acting_as(session, Origin(…)):`, in a handler of many jobs with each one's origin",
        )

    @classmethod
    def by_another_session(cls) -> "NotAudited":
        """The error for a session that writes no entries, on a database without triggers that do."""
        return cls(
            "session",
            "is not one of ledgerq's, and writes no audit entries; take it from open_database(tables=app.tables)",
        )

    @classmethod
    def past_the_session(cls, entity: str, statement: str) -> "NotAudited":
        """The error for a statement whose changes of rows the session does not see, so that it would write no entries."""
        return cls(
            entity,
            f"is audited, and {statement} changes rows that the session does not see; change objects of the session, or "
            f"let a trigger write the entries: Audited({entity}, by_trigger=True) and `ledgerq audit attach`, or record "
            "them yourself and say so: execution_options={audit.BY_HAND: True}",
        )


class ConstraintError(Refused):
    """A constraint of the database refused a write. `constraint` is None where SQLite does not name it."""

    problem = "the database refuses it"

    def __init__(self, constraint: str | None = None, fields: tuple[str, ...] = ()) -> None:
        self.constraint, self.fields = constraint, fields
        super().__init__(", ".join(fields) or constraint or "row", self.problem)


class MissingReference(ConstraintError):
    """A row that is inserted or changed refers to a row that does not exist."""

    problem = "points at a row that does not exist"


class StillReferenced(ConstraintError):
    """Other rows refer to a row that is to be deleted."""

    problem = "other rows, deleted ones not yet purged among them, still point at it"


class AlreadyExists(ConstraintError):
    """Another row has the same key."""

    problem = "another row has the same value"


class MissingValue(ConstraintError):
    """A column that must be filled is empty."""

    problem = "must have a value"


class TooLong(ConstraintError):
    """A text is longer than its column allows, or empty where it must not be."""

    problem = "is too long, or empty"


class RuleBroken(ConstraintError):
    """A CHECK constraint, or a constraint without an error of its own here, refused the row."""

    problem = "breaks a rule of the database"


class Transient(LedgerqError):
    """The same work may succeed a moment later, in a new transaction."""

    problem = "The same work may succeed a moment later, in a new transaction"

    def __init__(self, sqlstate: str | None = None) -> None:
        self.sqlstate = sqlstate
        super().__init__(f"{self.problem} ({sqlstate})" if sqlstate else self.problem)


class Disconnected(Transient):
    """The connection to the database was lost."""

    problem = "The connection to the database was lost"


class SerializationFailure(Transient):
    """A concurrent transaction changed the same data first."""

    problem = "A concurrent transaction changed the same data first"


class Deadlock(Transient):
    """Two transactions waited for each other, and this one was ended."""

    problem = "Two transactions waited for each other, and this one was ended"


class LockTimeout(Transient):
    """The database ended a statement that waited too long for a lock which another transaction holds."""

    problem = "The database ended a statement that waited too long for a lock which another transaction holds"


class Unavailable(Transient):
    """The database is starting, stopping, or short of a resource."""

    problem = "The database is starting, stopping, or short of a resource"
