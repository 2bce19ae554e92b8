"""Our errors. `db.translate` makes them of the database's.

LedgerqError                    everything that is ours; its text is one line for a person
├── SettingError                a setting is missing or wrong: names it, the problem and the cure
│   └── UsageError              … or an option of a command: the command exits with 2
├── Unreachable                 a server does not answer
├── SchemaBehind                the database's schema is older than this code
├── SchemaAhead                 the database's schema is newer than this code
├── MigrationFailed             Alembic could not do what it was asked for
├── NotLoaded                   a relationship was used that the read did not load
├── ChangedInPlace              a list of a row was changed instead of replaced
├── SessionShared               two tasks used one session at the same time
├── NotAllowedInJob             a job's handler would end the transaction that it was given
├── ErrorSwallowed              the transaction went on after an error of the database
├── JobEnded                    a job has ended, and something that it left behind uses its session
├── HandlerSilent               a handler did not use its transaction for so long that PostgreSQL ended it
├── Refused                     the data does not allow it; trying again cannot help
│   ├── NotFound                no such row
│   ├── MissingReference        a row points at one that does not exist
│   ├── StillReferenced         other rows point at one that is to go
│   ├── AlreadyExists           another row has the same key
│   ├── VersionConflict         somebody else changed the row meanwhile
│   ├── IllegalStatusChange     a task's status may not move that way
│   ├── MissingValue            a column that must be filled is empty
│   ├── TooLong                 a text is longer than its column allows
│   └── RuleBroken              any other rule that the database holds
└── Transient                   the same work may succeed a moment later
    ├── Disconnected            the connection was lost
    ├── SerializationFailure    another transaction came first
    ├── Deadlock                two transactions waited for each other
    ├── LockTimeout             a lock was not to be had in time
    └── Unavailable             the server is starting, stopping or short of something
"""


class LedgerqError(Exception):
    """The root of all our errors."""


class SettingError(LedgerqError):
    """A setting is missing or wrong."""

    def __init__(self, setting: str, problem: str, cure: str) -> None:
        self.setting, self.problem, self.cure = setting, problem, cure
        super().__init__(f"{setting}: {problem}; {cure}")


class UsageError(SettingError):
    """A command was called in a way that it can't be; its exit status is 2."""


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


class SchemaAhead(LedgerqError):
    """The database's schema is newer than this code."""

    def __init__(self, found: str, expected: str) -> None:
        self.found, self.expected = found, expected
        super().__init__(
            f"DATABASE_URL: the schema is at {found}, which this code does not know; "
            f"it needs {expected}: deploy the code that migrated it"
        )


class MigrationFailed(LedgerqError):
    """Alembic could not do what it was asked for."""


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


class ConstraintError(Refused):
    """A constraint of the database refused a write. SQLite does not name all of them."""

    problem = "the database refuses it"

    def __init__(self, constraint: str | None = None, fields: tuple[str, ...] = ()) -> None:
        self.constraint, self.fields = constraint, fields
        super().__init__(", ".join(fields) or constraint or "row", self.problem)


class MissingReference(ConstraintError):
    """A row points at one that does not exist."""

    problem = "points at a row that does not exist"


class StillReferenced(ConstraintError):
    """Other rows point at one that is to go."""

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
    """A CHECK constraint refused the row."""

    problem = "breaks a rule of the database"


class VersionConflict(Refused):
    """Somebody else changed the row since it was read; read it again, and decide again."""

    def __init__(self, entity: str, entity_id: int, expected: int, found: int) -> None:
        self.entity, self.entity_id = entity, entity_id
        self.expected, self.found = expected, found
        super().__init__(
            "expected_version",
            f"{entity} {entity_id} is at version {found} by now, not {expected}; read it again",
        )


class IllegalStatusChange(Refused):
    """A task's status may not move that way; `db.models.task.LEGAL_MOVES` says how it may."""

    def __init__(self, task_id: int, current: str, wanted: str, legal: tuple[str, ...]) -> None:
        self.task_id, self.current, self.wanted, self.legal = task_id, current, wanted, legal
        super().__init__(
            "status",
            f"task {task_id} may not move from {current} to {wanted}; "
            f"from {current} it may move to {', '.join(legal)}",
        )


class NotLoaded(LedgerqError):
    """A relationship was used that the read did not load: a hidden query is not made."""

    def __init__(self, relationship: str) -> None:
        self.relationship = relationship
        super().__init__(
            f"{relationship} is not loaded; load it in the read that gave you this row, with "
            f".options(selectinload({relationship})) for a collection or "
            f".options(joinedload({relationship})) for a single row"
        )


class ChangedInPlace(LedgerqError, AttributeError):
    """A list of a row was changed instead of replaced: no flush would notice, nothing would be stored."""

    def __init__(self) -> None:
        super().__init__(
            "a list that a row holds can't be changed in place, it would not be stored; replace it, "
            "as in tasks.update(session, origin, task.id, TaskChanges(tags=[*task.tags, 'new']))"
        )


class SessionShared(LedgerqError):
    """Two tasks used one session at the same time."""

    def __init__(self) -> None:
        super().__init__(
            "one session is used by two tasks at the same time; await one after the other, or open "
            "a session in each task, inside what you hand to gather() or create_task()"
        )


class NotAllowedInJob(LedgerqError):
    """A job's handler would end the transaction that it was given. `call` is what it called."""

    def __init__(self, call: str) -> None:
        self.call = call
        super().__init__(
            f"{call} is not allowed in a job: its transaction commits when the handler returns, with the mark "
            "that it ran, and rolls back when it raises; to undo a part, use "
            "`async with session.begin_nested():`; to undo all, raise an error"
        )


class ErrorSwallowed(LedgerqError):
    """The transaction went on after an error of the database, which had ended it."""

    def __init__(self) -> None:
        super().__init__(
            "an error of the database was swallowed, and the transaction went on; nothing of it is kept: "
            "let the error pass, or put what may fail into `async with session.begin_nested():`"
        )


class JobEnded(LedgerqError):
    """A job has ended, and something that it left behind uses its session."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        super().__init__(
            f"the session of job {job_id} ended with the job; await what uses it before the handler "
            "returns, or open a session of its own for it"
        )


class HandlerSilent(LedgerqError):
    """A handler did not use its transaction for so long that PostgreSQL ended it. Times are seconds."""

    def __init__(self, seconds: float, limit: float) -> None:
        self.seconds, self.limit = seconds, limit
        super().__init__(
            f"the handler did not use its transaction for {seconds:.1f} s, and PostgreSQL ended it after "
            f"{limit:g} s (LEDGERQ_DB_IDLE_IN_TRANSACTION_TIMEOUT); move what is slow outside of the "
            "transaction, into a job that stages this one when it has its answer"
        )


class Transient(LedgerqError):
    """The same work may succeed a moment later, in a new transaction."""

    def __init__(self, sqlstate: str | None = None) -> None:
        self.sqlstate = sqlstate
        sentence = (self.__doc__ or "").splitlines()[0].rstrip(".")
        super().__init__(f"{sentence} ({sqlstate})" if sqlstate else sentence)


class Disconnected(Transient):
    """The connection to the database was lost."""


class SerializationFailure(Transient):
    """Another transaction came first."""


class Deadlock(Transient):
    """Two transactions waited for each other, and this one was ended."""


class LockTimeout(Transient):
    """A lock was not to be had in time."""


class Unavailable(Transient):
    """The database is starting, stopping, or short of something."""
