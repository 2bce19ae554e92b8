"""The settings of a process: how a worker runs, where Redis and the database are. All times are seconds."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field
from pydantic_settings import SettingsConfigDict

from ledgerq.bounds import DEFAULT_QUEUE
from ledgerq.broker.settings import BrokerConfig
from ledgerq.database.settings import DatabaseConfig
from ledgerq.errors import SettingError
from ledgerq.execution.retry import Policy
from ledgerq.runtime.process_name import process_name
from ledgerq.settings import PREFIX, Settings, load, refuse_unknown
from ledgerq.wire.queue_name import checked_queue, queue_key

DAY = 86_400


class CommandSettings(Settings):
    """The setting that only the command line reads; see `ledgerq.cli.find_app`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    app: str = Field(default="", description="the application, as module:attribute")


def _names(given: object) -> tuple[str, ...]:
    """The queues that LEDGERQ_QUEUES names, as a tuple; raises ValueError if a name is invalid or repeated."""
    names = [name.strip() for name in given.split(",")] if isinstance(given, str) else given
    if not isinstance(names, list | tuple):
        raise ValueError("must be names of queues")  # noqa: TRY004 - pydantic wants this one
    for n, name in enumerate(names):
        if name == "":
            raise ValueError("holds an empty name")
        if name in names[:n]:
            raise ValueError(f"names {name} twice")
        try:
            checked_queue(name)
        except ValueError as error:
            raise ValueError(f"names a queue that {error}") from None
    return tuple(names)


class WorkerConfig(BrokerConfig):
    """A worker's settings, read from the environment; docs/reference/settings.md lists each field's variable."""

    queues: Annotated[tuple[str, ...], BeforeValidator(_names)] = Field(
        default=(DEFAULT_QUEUE,),
        description="the queues that a worker serves, with commas between them; `default` is LEDGERQ_QUEUE",
    )
    max_jobs: int = Field(
        default=10, ge=1, le=1000, description="the jobs that one worker runs at once, 1 to 1000"
    )
    max_outside: int = Field(
        default=100,
        ge=1,
        le=10_000,
        description="the jobs that may work outside of the database at once, beside LEDGERQ_MAX_JOBS",
    )
    batch: int = Field(
        default=500,
        ge=1,
        le=1000,
        description="the most jobs that are claimed together to share transactions, of kinds that may; 1 gives each job its own transaction",
    )
    job_timeout: float = Field(
        default=60,
        gt=0,
        le=DAY,
        description="the longest run of one job, if its kind has no timeout of its own",
    )
    max_attempts: int = Field(
        default=5, ge=1, le=1000, description="the attempts before a failing job is buried"
    )
    drain_timeout: int = Field(
        default=20, ge=1, le=DAY, description="how long running jobs may go on after SIGTERM"
    )
    stop_grace: float = Field(
        default=10,
        ge=0.1,
        le=3600,
        description="how long jobs that were rolled back, threads and hooks may take to end after the drain",
    )
    blocked_after: float = Field(
        default=2,
        ge=0.1,
        le=3600,
        description="how long a job may block the event loop before the log names it, with its stack",
    )
    max_result: int = Field(
        default=262_144,
        ge=1_000,
        le=100_000_000,
        description="the largest result of a job or answer of a step, in bytes of JSON",
    )
    max_steps: int = Field(
        default=1_000, ge=1, le=100_000, description="the most steps outside of one job"
    )
    max_answers: int = Field(
        default=8 * 2**20,
        ge=1_000,
        le=1_000_000_000,
        description="what all steps of one job may answer with, in bytes of JSON",
    )
    max_error: int = Field(
        default=4_000,
        ge=200,
        le=1_000_000,
        description="the characters that are kept of an error",
    )
    max_traceback: int = Field(
        default=20_000,
        ge=200,
        le=1_000_000,
        description="the characters that are kept of a traceback",
    )
    lease: float = Field(
        default=15,
        ge=1,
        le=3600,
        description="how long a claim lasts unless its worker renews it: after that, another worker takes the job",
    )
    relay_interval: float = Field(
        default=1, gt=0, le=60, description="the longest pause between two polls of the outbox"
    )
    keep_result: int = Field(
        default=300,
        ge=0,
        le=365 * DAY,
        description="how long a result stays on Redis; the database keeps it longer",
    )
    poll_delay: float = Field(
        default=0.1,
        gt=0,
        le=60,
        description="the pause between two polls of the queue, while Redis can't notify of changes",
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto", description="console, json, or auto: console on a terminal, else json"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="DEBUG, INFO, WARNING or ERROR"
    )

    @property
    def served(self) -> tuple[str, ...]:
        """The keys of the queues that a worker serves: LEDGERQ_QUEUES, else LEDGERQ_QUEUE."""
        return tuple(dict.fromkeys(queue_key(name, self.queue) for name in self.queues or (None,)))

    @property
    def policy(self) -> Policy:
        """The limits for each job: run time, attempts, sizes of result, error and traceback."""
        return Policy(
            timeout=self.job_timeout,
            max_attempts=self.max_attempts,
            max_result=self.max_result,
            max_steps=self.max_steps,
            max_answers=self.max_answers,
            max_error=self.max_error,
            max_traceback=self.max_traceback,
        )


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of one process."""

    worker: WorkerConfig
    database: DatabaseConfig

    def for_worker(self) -> Self:
        """The same settings with a connection pool that is large enough for a worker, and with the process's name.

        Each running job needs one connection; batches, the relay and dead letters need six more. pg_stat_activity shows
        the process's name as application_name, even if the URL names another one.
        """
        target = self.database.target
        said = {n: v for n, v in target.server_settings.items() if n != "application_name"}
        database = self.database.model_copy(
            update={
                "pool_size": max(self.database.pool_size, self.worker.max_jobs + 6),
                "application_name": process_name(),
                "target": replace(target, server_settings=said),
            }
        )
        return type(self)(self.worker, database)


def load_config() -> Config:
    """Read all settings from the environment.

    Raises:
        SettingError: a setting is missing, wrong or misspelt, or two settings contradict each other.
    """
    refuse_unknown(PREFIX, CommandSettings, WorkerConfig, DatabaseConfig)
    config = Config(load(WorkerConfig), load(DatabaseConfig))
    _check_order(config)
    return config


def _check_order(config: Config) -> None:
    """Refuse timeouts that are set out of order. The order is: lock < idle in transaction < lease.

    Out of order, a job could hold its transaction for longer than its lease. A lease that is shorter than the default
    of the idle timeout is accepted, since a living worker renews the lease.
    """
    database, lease = config.database, config.worker.lease
    idle, lock = database.idle_in_transaction_timeout, database.lock_timeout
    given = database.model_fields_set
    if lock >= idle and given & {"lock_timeout", "idle_in_transaction_timeout"}:
        raise SettingError(
            "LEDGERQ_DB_LOCK_TIMEOUT",
            f"is {lock:g} s, not below LEDGERQ_DB_IDLE_IN_TRANSACTION_TIMEOUT, {idle:g} s",
            "lower the first or raise the second",
        )
    if idle >= lease and "idle_in_transaction_timeout" in given:
        raise SettingError(
            "LEDGERQ_DB_IDLE_IN_TRANSACTION_TIMEOUT",
            f"is {idle:g} s, not below LEDGERQ_LEASE, {lease:g} s",
            "lower the first or raise the second",
        )
