"""How the worker runs. All times are seconds."""

import os
import socket
from dataclasses import dataclass
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict
from redis.asyncio import ConnectionPool

from db.config import DatabaseConfig
from db.settings import load, refuse_unknown
from jobs.retry import Policy

PREFIX = "LEDGERQ_"
DAY = 86_400


def _redis_url(url: SecretStr) -> SecretStr:
    parts = urlsplit(url.get_secret_value())
    if parts.scheme not in {"redis", "rediss", "unix"}:
        raise ValueError("is not a Redis URL")
    try:
        _ = parts.port
        if parts.scheme != "unix":
            int(parts.path.strip("/") or 0)
    except ValueError:
        raise ValueError("has a port or a database that is not a number") from None
    try:
        ConnectionPool.from_url(url.get_secret_value()).make_connection()  # type: ignore[no-untyped-call]
    except (TypeError, ValueError):
        raise ValueError("has an option that Redis clients do not know, or a wrong value") from None
    return url


class WorkerConfig(BaseSettings):
    """Read from the environment; every field's variable is in the README's table."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    redis_url: Annotated[SecretStr, AfterValidator(_redis_url)] = Field(
        validation_alias="REDIS_URL",
        description="a URL such as redis://:password@host:6379/0, rediss://… or unix:///path",
    )
    queue: str = Field(
        default="arq:queue", min_length=1, description="the queue's key on Redis, as in arq"
    )
    max_jobs: int = Field(
        default=10, ge=1, le=1000, description="the jobs that one worker runs at once, 1 to 1000"
    )
    batch: int = Field(
        default=500,
        ge=1,
        le=1000,
        description="the most jobs that may share one transaction, of kinds that can; 1 gives each its own",
    )
    job_timeout: float = Field(
        default=60,
        gt=0,
        le=DAY,
        description="the longest run of one job, where its kind says nothing",
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
        description="the largest result of a job, in bytes of JSON",
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
        description="how long a claim holds that its worker no longer renews: what a dead worker costs",
    )
    relay_interval: float = Field(
        default=1, gt=0, le=60, description="the longest pause between two looks at the outbox"
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
        description="the pause between two looks at the queue, unless Redis tells of changes",
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto", description="console, json, or auto: console on a terminal, else json"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="DEBUG, INFO, WARNING or ERROR"
    )

    @property
    def policy(self) -> Policy:
        """How patient a worker is with its jobs."""
        return Policy(
            timeout=self.job_timeout,
            max_attempts=self.max_attempts,
            max_result=self.max_result,
            max_error=self.max_error,
            max_traceback=self.max_traceback,
        )


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of one process."""

    worker: WorkerConfig
    database: DatabaseConfig

    def for_worker(self) -> Self:
        """Each running job needs one connection; batches, the relay and dead letters need some more."""
        database = self.database.model_copy(
            update={
                "pool_size": max(self.database.pool_size, self.worker.max_jobs + 6),
                "application_name": process_name(),
            }
        )
        return type(self)(self.worker, database)


def load_config() -> Config:
    """Read all settings from the environment.

    Raises:
        SettingError: one is missing, wrong, or has a name that nobody reads.
    """
    refuse_unknown(PREFIX, WorkerConfig, DatabaseConfig)
    return Config(load(WorkerConfig), load(DatabaseConfig))


def process_name() -> str:
    """Our name among all workers: in pg_stat_activity, Redis' client list, health and logs."""
    return f"{_machine()}:{os.getpid()}"


def runs_here(name: str) -> bool:
    """True if the process of that name runs on this machine, or in this container."""
    return name.startswith(f"{_machine()}:")


def _machine() -> str:
    return f"ledgerq:{socket.gethostname()[:40]}"
