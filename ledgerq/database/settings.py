"""The settings of the database: its URL, the pool, the timeouts. All times are seconds."""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field
from pydantic_settings import NoDecode, SettingsConfigDict
from sqlalchemy.engine import URL

from ledgerq.database.url import Target, translate
from ledgerq.settings import Settings

DAYS = 24 * 86_400.0  # PostgreSQL counts milliseconds in 32 bits


def _target(value: str | URL | Target) -> Target:
    return value if isinstance(value, Target) else translate(value)


def _application_name(name: str) -> str:
    if not (name.isascii() and name.isprintable()) or " " in name:
        raise ValueError("holds a blank, or a character that is not printable ASCII")
    return name


class DatabaseConfig(Settings):
    """The database's settings, read from the environment; docs/reference/settings.md lists each field's variable.

    ```python
    config = DatabaseConfig(url="postgresql://shop@localhost/shop", pool_size=20)
    ```
    """

    model_config = SettingsConfigDict(env_prefix="LEDGERQ_DB_", arbitrary_types_allowed=True)

    if TYPE_CHECKING:  # else type checkers ask for fields that the environment has

        def __init__(self, **given: Any) -> None: ...

    target: Annotated[Target, NoDecode, BeforeValidator(_target)] = Field(
        validation_alias=AliasChoices("DATABASE_URL", "url"),
        description="a URL such as postgresql://user:password@host:5432/name or sqlite:///ledgerq.sqlite3",
        repr=False,  # so that no log shows the password, a client key's path or a server setting
    )
    pool_size: int = Field(
        default=12, ge=1, le=1000, description="the connections kept open at most, 1 to 1000"
    )
    max_overflow: int = Field(
        default=0, ge=0, le=1000, description="further connections, opened while all are in use"
    )
    pool_timeout: float = Field(
        default=10, ge=0.001, le=DAYS, description="the longest wait for a free connection"
    )
    pool_recycle: float = Field(
        default=1800, ge=0.001, le=DAYS, description="the age at which a connection is replaced"
    )
    pool_lifo: bool = Field(
        default=True, description="true to use the freshest idle connection, false the oldest"
    )
    pre_ping: bool = Field(
        default=False, description="true to check that a connection is alive before each use"
    )
    connect_timeout: float = Field(
        default=5, ge=0.001, le=DAYS, description="the longest wait for the server"
    )
    statement_timeout: float = Field(
        default=30, ge=0.001, le=DAYS, description="the longest run of one statement"
    )
    lock_timeout: float = Field(
        default=5, ge=0.001, le=DAYS, description="the longest wait for a lock"
    )
    idle_in_transaction_timeout: float = Field(
        default=10,
        ge=0.001,
        le=DAYS,
        description="how long a transaction may run no statement before PostgreSQL ends it",
    )
    application_name: Annotated[str, AfterValidator(_application_name)] = Field(
        default="ledgerq",
        min_length=1,
        max_length=63,
        description="the name in pg_stat_activity, 1 to 63 characters",
    )
    echo: bool = Field(default=False, description="true to log every statement")

    @property
    def url(self) -> URL:
        """The URL for SQLAlchemy."""
        return self.target.url

    @property
    def is_sqlite(self) -> bool:
        """True if the URL names SQLite, which allows one writer, on one machine."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def address(self) -> str:
        """The URL for logs and messages: the password is hidden."""
        return self.url.render_as_string(hide_password=True)
