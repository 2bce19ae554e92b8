"""Settings: found, checked, and never printed when they are secret."""

import pytest

from db.config import DatabaseConfig
from db.errors import SettingError
from db.settings import load
from worker.config import WorkerConfig, load_config

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def _both_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://me:{SECRET}@db/app")
    monkeypatch.setenv("REDIS_URL", f"redis://:{SECRET}@cache:6379/2")


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("postgres://u@h/d", "postgresql+asyncpg"),
        ("postgresql://u@h/d", "postgresql+asyncpg"),
        ("postgresql+asyncpg://u@h/d", "postgresql+asyncpg"),
        ("sqlite:///x.db", "sqlite+aiosqlite"),
        ("sqlite+aiosqlite:///x.db", "sqlite+aiosqlite"),
    ],
)
def test_the_async_driver_is_named_for_every_url_that_people_have(given: str, driver: str) -> None:
    """Whatever the platform hands out, SQLAlchemy gets an async driver."""
    assert DatabaseConfig(url=given).url.drivername == driver


def test_a_password_with_special_characters_survives() -> None:
    """Percent-encoding is undone, once."""
    assert DatabaseConfig(url="postgres://u:p%40ss%2Fw%25@h/d").url.password == "p@ss/w%"


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each variable sets its field."""
    monkeypatch.setenv("LEDGERQ_MAX_JOBS", "33")
    monkeypatch.setenv("LEDGERQ_DB_POOL_SIZE", "7")
    config = load_config()
    assert (config.worker.max_jobs, config.database.pool_size) == (33, 7)
    assert config.for_worker().database.pool_size == 39


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("DATABASE_URL", "", "is not set"),
        ("DATABASE_URL", f"mysql://me:{SECRET}@db/app", "mysql"),
        ("DATABASE_URL", SECRET, "is not a database URL"),
        ("DATABASE_URL", f"postgresql://me:{SECRET}@db:port/app", "is not a database URL"),
        ("DATABASE_URL", f"postgresql://me:{SECRET}@db", "names no database"),
        ("REDIS_URL", "", "is not set"),
        ("REDIS_URL", f"http://:{SECRET}@cache", "is not a Redis URL"),
        ("REDIS_URL", f"redis://:{SECRET}@cache:abc", "not a number"),
        ("REDIS_URL", f"redis://:{SECRET}@cache/queue", "not a number"),
        ("LEDGERQ_MAX_JOBS", "many", "integer"),
        ("LEDGERQ_MAX_JOBS", "0", "greater than or equal to 1"),
        ("LEDGERQ_DB_LOCK_TIMEOUT", "-1", "greater than or equal to"),
        ("LEDGERQ_LOG_FORMAT", "xml", "'auto', 'console' or 'json'"),
        ("DATABASE_URL", f"postgresql://me:{SECRET}@db:99999/app", "names a port"),
        ("DATABASE_URL", f"postgresql://me@db/app?password={SECRET}", "option password"),
        ("REDIS_URL", f"redis://:{SECRET}@cache/0?foo=1", "has an option"),
        ("REDIS_URL", f"redis://:{SECRET}@cache/0?socket_timeout={SECRET}", "has an option"),
        ("LEDGERQ_JOB_TIMEOUT", "inf", "less than or equal to"),
        ("LEDGERQ_KEEP_RESULT", "99999999999999999999", "less than or equal to"),
        ("LEDGERQ_DB_STATEMENT_TIMEOUT", "1e12", "less than or equal to"),
        ("LEDGERQ_DB_STATEMENT_TIMEOUT", "nan", "than or equal to"),
        ("LEDGERQ_MAX_JOB", "3", "did you mean LEDGERQ_MAX_JOBS?"),
        ("LEDGERQ_12345_67890", "3", "known are"),
    ],
)
def test_a_wrong_setting_is_named_with_its_cure(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, problem: str
) -> None:
    """The error says which variable, what is wrong, what to do, and no secret."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingError) as wrong:
        load_config()
    text = str(wrong.value)
    assert text.startswith(variable)
    assert problem in text
    assert SECRET not in text
    assert "\n" not in text
    assert wrong.value.__cause__ is None


def test_no_repr_shows_a_password() -> None:
    """Settings may end up in a log or a traceback."""
    config = load_config()
    assert SECRET not in repr(config)
    assert SECRET not in config.database.address
    assert SECRET not in str(load(WorkerConfig))
