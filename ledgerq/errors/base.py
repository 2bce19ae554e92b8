"""The root of ledgerq's errors, and the errors of settings, definitions, servers and schemas."""


class LedgerqError(Exception):
    """The root of ledgerq's errors.

    ```python
    try:
        await stage(session, CloseOrder(order_id=order.id), job_id="close:7")
    except LedgerqError as error:
        print(error)  # one line for a person; no secret in it
    ```
    """


class SettingError(LedgerqError):
    """A setting is missing or wrong."""

    def __init__(self, setting: str, problem: str, cure: str) -> None:
        self.setting, self.problem, self.cure = setting, problem, cure
        super().__init__(f"{setting}: {problem}; {cure}")


class UsageError(SettingError):
    """An option or an argument of a command is missing or wrong; the command exits with 2."""


class DefinitionError(LedgerqError, ValueError):
    """A job, a payload or an App is defined in a way that cannot work; raised when its module is imported.

    ```python
    class Nameless(Payload[int], kind=""): ...  # Nameless(kind=): must have 1 to 100 printable characters; …
    ```
    """

    def __init__(self, what: str, problem: str, cure: str) -> None:
        self.what, self.problem, self.cure = what, problem, cure
        super().__init__(f"{what}: {problem}; {cure}")


class Unreachable(LedgerqError):
    """A server does not answer, or refuses writes. `address` must not contain a password."""

    def __init__(self, setting: str, address: str, reason: str) -> None:
        self.setting, self.address, self.reason = setting, address, reason
        super().__init__(
            f"{setting}: no answer from {address} ({reason}); "
            "start the server there or point the setting to one that runs"
        )


class RedisRefuses(LedgerqError):
    """Redis answers, but lacks or refuses something that ledgerq needs; the text says what, and what to do."""


class SchemaBehind(LedgerqError):
    """The database's schema is older than this code."""

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
    """A migration could not run; the text says why."""
