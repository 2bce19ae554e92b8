"""Our errors. An application's own derive from `LedgerqError`, or from `Refused` if trying again cannot help.

```python
class CardExpired(Refused): ...
```

LedgerqError                    everything that is ours; its text is one line for a person
├── SettingError                a setting is missing or wrong: names it, the problem and the cure
│   └── UsageError              … or an option of a command: the command exits with 2
├── DefinitionError             a job, a payload or an App cannot work as it is written: names it, the problem and the cure
├── Unreachable                 a server does not answer
├── RedisRefuses                Redis is too old, lacks something, or does not let us in
├── SchemaBehind                the database's schema is older than this code
├── SchemaAhead                 the database's schema is newer than this code
├── MigrationFailed             Alembic could not do what it was asked for
├── SessionShared               two tasks used one session at the same time
├── NotAllowedInJob             a job's handler would end the transaction that it was given
├── ErrorSwallowed              the transaction went on after an error of the database
├── JobEnded                    a job has ended, and something that it left behind uses its session
├── HandlerSilent               a handler did not use its transaction for so long that PostgreSQL ended it
├── Refused                     the data does not allow it; trying again cannot help
│   ├── NotAudited              a row of an audited class would change without an entry, or without an author
│   └── ConstraintError         a constraint of the database
│       ├── MissingReference    a row points at one that does not exist
│       ├── StillReferenced     other rows point at one that is to go
│       ├── AlreadyExists       another row has the same key
│       ├── MissingValue        a column that must be filled is empty
│       ├── TooLong             a text is longer than its column allows
│       └── RuleBroken          any other rule that the database holds
├── Transient                   the same work may succeed a moment later
│   ├── Disconnected            the connection was lost
│   ├── SerializationFailure    another transaction came first
│   ├── Deadlock                two transactions waited for each other
│   ├── LockTimeout             a lock was not to be had in time
│   └── Unavailable             the server is starting, stopping or short of something
├── IdHeld                      another queue on the same Redis has the id
├── JobFailed                   a client waited for a job that was buried
├── ResultExpired               a client waited for a job of which nothing is known any more
├── UnexpectedResult            a client waited for a job whose answer has another type than its payload names
├── StillRuns                   a job did not let itself be cancelled in the time given
└── JobError                    a job cannot be done: `reason` is what its dead letter says
    ├── Undecodable             the bytes on the queue are not our JSON
    ├── InvalidPayload          the payload breaks the kind's rules: the fields at fault are listed
    │   └── UnknownFields       it has fields that this code does not know; newer code may know them
    ├── InvalidResult           what the handler answered is not JSON
    ├── ResultTooLarge          what the handler answered is larger than results may be
    ├── UnknownKind             no such kind here; a newer worker may know it
    ├── PayloadMismatch         this job id already stands for another payload
    ├── InvalidRequest          a producer asks for what no worker would take
    ├── NotBuried               a job that was to be replayed or discarded has no dead letter
    ├── NotReplayable           what is kept of a dead job does not suffice to run it again
    ├── Expired                 Redis has lost the job's body
    ├── WorkerLost              the job's worker died again and again while it ran
    ├── BlockedTooOften         the job blocked the event loop of a worker in each of its attempts
    └── Permanent               a handler says that trying again cannot help

TimedOut                        the job took longer than it may
CancelledByItself               the job's own code cancelled the task that it runs in
HeldUp                          another job blocked the event loop meanwhile: no attempt is spent
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
    ResultExpired,
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
    "PayloadMismatch",
    "Permanent",
    "Problem",
    "RedisRefuses",
    "Refused",
    "ResultExpired",
    "ResultTooLarge",
    "RetryLater",
    "RuleBroken",
    "SchemaAhead",
    "SchemaBehind",
    "SerializationFailure",
    "SessionShared",
    "SettingError",
    "Snooze",
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
