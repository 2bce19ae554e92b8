"""ledgerq's errors. An application's own errors derive from `LedgerqError`, or from `Refused` if a retry cannot help.

```python
class CardExpired(Refused): ...
```

LedgerqError                    the root of ledgerq's errors; the text is one line for a person
├── SettingError                a setting is missing or wrong: the text has its name, the problem and the cure
│   └── UsageError              an option or an argument of a command is missing or wrong: the command exits with 2
├── DefinitionError             a job, a payload or an App cannot work as it is defined: the text has the cure
├── Unreachable                 a server does not answer
├── RedisRefuses                Redis is too old, lacks something, or refuses the login
├── SchemaBehind                the database's schema is older than this code
├── SchemaAhead                 the database's schema is newer than this code
├── MigrationFailed             a migration could not run
├── SessionShared               two tasks used one session at the same time
├── NotAllowedInJob             a job's handler tried to end the transaction that it was given
├── ErrorSwallowed              a handler went on after an error of the database, which had ended the transaction
├── JobEnded                    a job's session is used after the job has ended
├── HandlerSilent               a handler did not use its transaction for so long that PostgreSQL ended it
├── Refused                     the data does not allow the work; a retry cannot help
│   ├── NotAudited              a row of an audited class would change without an entry, or without an author
│   └── ConstraintError         a constraint of the database refused a row
│       ├── MissingReference    a row refers to a row that does not exist
│       ├── StillReferenced     other rows refer to a row that is to be deleted
│       ├── AlreadyExists       another row has the same key
│       ├── MissingValue        a column that must be filled is empty
│       ├── TooLong             a text is longer than its column allows
│       └── RuleBroken          any other constraint of the database refused a row
├── Transient                   the same work may succeed a moment later
│   ├── Disconnected            the connection was lost
│   ├── SerializationFailure    a concurrent transaction changed the same data first
│   ├── Deadlock                two transactions waited for each other
│   ├── LockTimeout             the wait for a lock took too long
│   └── Unavailable             the server is starting, stopping or short of a resource
├── NotStaged                   a job's producer put it on the queue, but did not commit the transaction that staged it
├── IdHeld                      another queue on the same Redis has a job of this id
├── JobFailed                   a client waited for a job that was buried or cancelled
├── ResultExpired               a client waited for a job that is not queued, and whose result is not kept any more
├── ResultNotKept           a client waits for a job whose payload says that Redis keeps no result
├── UnexpectedResult            a client waited for a job whose answer has another type than its payload names
├── StillRuns                   a job that is to be cancelled still runs after the timeout
└── JobError                    a job cannot be done: `reason` is the reason in its dead letter
    ├── Undecodable             the body on the queue is not JSON as ledgerq writes it, or the job's id is not valid
    ├── InvalidPayload          the payload breaks the kind's rules: the text lists the invalid fields
    │   └── UnknownFields       the payload has fields that this code does not know; newer code may know them
    ├── InvalidResult           the handler's answer is not JSON that the database can store
    ├── ResultTooLarge          the handler's answer is larger than LEDGERQ_MAX_RESULT
    ├── StepUnusable            a step was done outside of the database, and its answer could not be kept
    ├── InDoubt                 a step that is called at most once may have happened: a person decides
    ├── UnknownKind             the application has no such kind; a newer worker may know it
    ├── PayloadMismatch         a job of this id has another payload
    ├── InvalidRequest          a producer's request has an invalid argument
    ├── NotBuried               a job that is to be replayed or discarded has no dead letter
    ├── NotReplayable           a dead letter lacks what a replay needs
    ├── Expired                 Redis has lost the job's body
    ├── WorkerLost              the job's worker died too often while the job ran
    ├── BlockedTooOften         the job blocked a worker's event loop in each of its attempts
    └── Permanent               a handler says that a retry cannot help

TimedOut                        the job took longer than its timeout
CancelledByItself               the job's own code cancelled the task in which the job runs
HeldUp                          another job blocked the event loop until the timeout: no attempt is counted
RetryLater, Snooze              not errors: a handler asks to be called again
"""

from ledgerq.errors.base import (
    DefinitionError,
    LedgerqError,
    MigrationFailed,
    RedisRefuses,
    SchemaAhead,
    SchemaBehind,
    SettingError,
    Unreachable,
    UsageError,
)
from ledgerq.errors.clients import (
    IdHeld,
    JobFailed,
    NotStaged,
    ResultExpired,
    ResultNotKept,
    StillRuns,
    UnexpectedResult,
)
from ledgerq.errors.data import (
    AlreadyExists,
    ConstraintError,
    Deadlock,
    Disconnected,
    LockTimeout,
    MissingReference,
    MissingValue,
    NotAudited,
    Refused,
    RuleBroken,
    SerializationFailure,
    StillReferenced,
    TooLong,
    Transient,
    Unavailable,
)
from ledgerq.errors.jobs import (
    MAX_DELAY,
    BlockedTooOften,
    CancelledByItself,
    DeadLetterReason,
    Expired,
    HeldUp,
    InDoubt,
    InvalidPayload,
    InvalidRequest,
    InvalidResult,
    JobError,
    NotBuried,
    NotReplayable,
    PayloadMismatch,
    Permanent,
    Problem,
    ResultTooLarge,
    RetryLater,
    Snooze,
    StepUnusable,
    TimedOut,
    Undecodable,
    UnknownFields,
    UnknownKind,
    WorkerLost,
)
from ledgerq.errors.session import (
    ErrorSwallowed,
    HandlerSilent,
    JobEnded,
    NotAllowedInJob,
    SessionShared,
)

__all__ = [
    "MAX_DELAY",
    "AlreadyExists",
    "BlockedTooOften",
    "CancelledByItself",
    "ConstraintError",
    "DeadLetterReason",
    "Deadlock",
    "DefinitionError",
    "Disconnected",
    "ErrorSwallowed",
    "Expired",
    "HandlerSilent",
    "HeldUp",
    "IdHeld",
    "InDoubt",
    "InvalidPayload",
    "InvalidRequest",
    "InvalidResult",
    "JobEnded",
    "JobError",
    "JobFailed",
    "LedgerqError",
    "LockTimeout",
    "MigrationFailed",
    "MissingReference",
    "MissingValue",
    "NotAllowedInJob",
    "NotAudited",
    "NotBuried",
    "NotReplayable",
    "NotStaged",
    "PayloadMismatch",
    "Permanent",
    "Problem",
    "RedisRefuses",
    "Refused",
    "ResultExpired",
    "ResultNotKept",
    "ResultTooLarge",
    "RetryLater",
    "RuleBroken",
    "SchemaAhead",
    "SchemaBehind",
    "SerializationFailure",
    "SessionShared",
    "SettingError",
    "Snooze",
    "StepUnusable",
    "StillReferenced",
    "StillRuns",
    "TimedOut",
    "TooLong",
    "Transient",
    "Unavailable",
    "Undecodable",
    "UnexpectedResult",
    "UnknownFields",
    "UnknownKind",
    "Unreachable",
    "UsageError",
    "WorkerLost",
]
