"""Settings: found, checked, and never printed when they are secret."""

import math
import os
from pathlib import Path

import pytest

from ledgerq.config import WorkerConfig, load_config
from ledgerq.database.settings import DatabaseConfig
from ledgerq.errors import SettingError
from ledgerq.settings import load, variables

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


AROUND = ["\r", "\n", "\r\n", " ", "\t", "\ufeff", "\u200b", "\xa0"]


@pytest.mark.parametrize("around", AROUND)
def test_what_was_copied_along_with_a_value_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, around: str
) -> None:
    """A file from Windows, a pasted line: the value is the clean one, for every kind of setting."""
    for variable, value in (
        ("DATABASE_URL", "postgresql://me:p@db/app"),
        ("REDIS_URL", "redis://cache:6379/2"),
        ("LEDGERQ_QUEUE", "arq:other"),
        ("LEDGERQ_MAX_JOBS", "7"),
        ("LEDGERQ_LOG_FORMAT", "json"),
        ("LEDGERQ_DB_ECHO", "true"),
        ("LEDGERQ_DB_APPLICATION_NAME", "crm"),
    ):
        monkeypatch.setenv(variable, f"{around}{value}{around}{around}")
    config = load_config()
    assert config.database.url.database == "app"
    assert config.worker.redis_url.get_secret_value() == "redis://cache:6379/2"
    assert (config.worker.queue, config.worker.max_jobs) == ("arq:other", 7)
    assert (config.worker.log_format, config.database.echo) == ("json", True)
    assert config.database.application_name == "crm"
    monkeypatch.setenv("LEDGERQ_QUEUE", around)
    assert load(WorkerConfig).queue == "arq:queue"
    monkeypatch.setenv("REDIS_URL", around)
    with pytest.raises(SettingError, match="REDIS_URL: is not set"):
        load(WorkerConfig)


@pytest.mark.parametrize("variable", ["DATABASE_URL", "REDIS_URL", "LEDGERQ_QUEUE"])
@pytest.mark.parametrize("inside", ["\r", "\n", "\t", "\x1b[2J", "\x7f", "\udce9", " "])
def test_a_blank_or_control_character_inside_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, inside: str
) -> None:
    """It would be another address, or another queue, without a word."""
    values = {"DATABASE_URL": "postgresql://me:p@d{}b/app", "REDIS_URL": "redis://ca{}che/0"}
    monkeypatch.setenv(variable, values.get(variable, "arq:{}queue").format(inside))
    with pytest.raises(SettingError) as wrong:
        load_config()
    assert str(wrong.value).startswith(f"{variable}: holds ")
    assert str(wrong.value).isprintable()


@pytest.mark.parametrize("value", ['"arq:queue"', "'arq:queue'", '"arq:queue', "arq:queue'"])
def test_quotation_marks_that_were_copied_along_are_refused(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """`docker --env-file` keeps them: the queue would be another one."""
    monkeypatch.setenv("LEDGERQ_QUEUE", value)
    with pytest.raises(SettingError, match="LEDGERQ_QUEUE: begins or ends with a quotation mark"):
        load_config()


@pytest.mark.parametrize(
    "queue",
    [
        *("arq:job:7", "arq:result:7", "arq:retry:7", "arq:in-progress:7", "arq:abort"),
        *("ledgerq:workers", "ledgerq:running:arq:queue", "arq:queue:health-check"),
        *("a|b", "a b", "a\x00b", "a\u202eb", "'a", "x" * 201),
    ],
)
def test_a_queue_that_would_be_another_key_is_refused(queue: str) -> None:
    """Ours and arq's keys stand beside the queue on Redis; also where it is given in Python."""
    with pytest.raises(SettingError, match="LEDGERQ_QUEUE: "):
        load(WorkerConfig, queue=queue)
    assert load(WorkerConfig, queue="shop:jobs-é").queue == "shop:jobs-é"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LEDGERQ_PORT", "tcp://10.0.0.7:80"),
        ("LEDGERQ_PORT", "tcp://[fd00::7]:80"),
        ("LEDGERQ_SERVICE_HOST", "10.0.0.7"),
        ("LEDGERQ_SERVICE_PORT", "80"),
        ("LEDGERQ_SERVICE_PORT_HTTP", "80"),
        ("LEDGERQ_PORT_80_TCP", "tcp://10.0.0.7:80"),
        ("LEDGERQ_PORT_80_TCP_ADDR", "10.0.0.7"),
        ("LEDGERQ_PORT_80_TCP_PORT", "80"),
        ("LEDGERQ_PORT_80_TCP_PROTO", "tcp"),
        ("LEDGERQ_PORT_53_UDP", "udp://10.0.0.7:53"),
        ("LEDGERQ_WORKER_SERVICE_HOST", "fd00::7"),
        ("LEDGERQ_WORKER_PORT_6379_TCP", "tcp://10.0.0.7:6379"),
        ("LEDGERQ_DB_PORT", "tcp://10.0.0.7:5432"),
        ("LEDGERQ_DB_SERVICE_PORT_POSTGRES", "5432"),
        ("LEDGERQ_NAME", "/web/ledgerq"),
    ],
)
def test_what_kubernetes_says_of_a_service_named_like_us_is_ignored(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """It says so to every container of the namespace."""
    monkeypatch.setenv(name, value)
    load_config()


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("LEDGERQ_PORT", "6379", "did you mean"),
        ("LEDGERQ_NAME", "crm", "LEDGERQ_"),
        ("LEDGERQ_ENV_QUEUE", "x", "LEDGERQ_QUEUE"),
        ("LEDGERQ_SERVICE_PORT", "many", "LEDGERQ_"),
        ("LEDGERQ_MAX_JOB", "tcp://10.0.0.7:80", "LEDGERQ_MAX_JOBS?"),
        ("LEDGERQ_QUEU_FILE", "/x", "LEDGERQ_QUEUE_FILE?"),
        ("ledgerq_max_jobs", "3", "LEDGERQ_MAX_JOBS?"),
        ("Ledgerq_Queue", "3", "LEDGERQ_QUEUE?"),
    ],
)
def test_a_misspelt_setting_is_not_taken_for_a_service_link(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, meant: str
) -> None:
    """Both the name and the value must look like one."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingError, match=f"{name}: is not a setting of ledgerq") as wrong:
        load_config()
    assert meant in str(wrong.value)


@pytest.mark.parametrize("value", ["", " ", "\r\n", "\ufeff"])
@pytest.mark.parametrize("name", ["LEDGERQ_PORT", "LEDGERQ_MAX_JOB", "ledgerq_max_jobs"])
def test_an_emptied_variable_counts_as_not_set(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """Whatever its name is: nothing is asked for."""
    monkeypatch.setenv(name, value)
    load_config()


def test_the_variables_of_a_docker_link_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A linked container tells its environment under our prefix."""
    monkeypatch.setenv("LEDGERQ_NAME", "/web/ledgerq")
    monkeypatch.setenv("LEDGERQ_ENV_PYTHON_VERSION", "3.13")
    load_config()


def test_every_setting_can_stand_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`…_FILE` names it; what surrounds the value is cut off."""
    values = {
        "DATABASE_URL": "postgresql://me:p@files/app",
        "REDIS_URL": "redis://:p@files:6379/3",
        "LEDGERQ_DB_POOL_SIZE": "7",
        "LEDGERQ_QUEUES": "billing,default",
    }
    defaults = {**vars(load(WorkerConfig)), **vars(load(DatabaseConfig))}
    for kind in (WorkerConfig, DatabaseConfig):
        for variable, field in variables(kind).items():
            file = tmp_path / variable
            file.write_text(f"\ufeff{values.get(variable, defaults[field])}\r\n")
            monkeypatch.delenv(variable, raising=False)
            monkeypatch.setenv(f"{variable}_FILE", f"{file}\n")
    config = load_config()
    assert config.database.url.host == "files"
    assert config.worker.redis_url.get_secret_value() == values["REDIS_URL"]
    assert config.database.pool_size == 7


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "can't be read (No such file or directory)"),
        (b"", "names an empty file"),
        (b" \r\n", "names an empty file"),
        (b"postgresql://u:hunter2\xff@h/d", "not UTF-8"),
        (b"postgresql://u:hunter2\n@h/d", "control character"),
        (b"hunter2" * 10_000, "more than 65536 bytes"),
        (b"mysql://u:hunter2@h/d", "mysql"),
        ("folder", "Is a directory"),
        ("pipe", "not a file"),
    ],
)
def test_a_file_that_cannot_be_the_setting_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | str | None, problem: str
) -> None:
    """One line that names the variable, and never what the file holds."""
    file = tmp_path / "hunter2"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content == "folder":
        file.mkdir()
    elif content == "pipe":
        os.mkfifo(file)
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setenv("DATABASE_URL_FILE", str(file))
    with pytest.raises(SettingError) as wrong:
        load_config()
    assert str(wrong.value).startswith("DATABASE_URL_FILE: ")
    assert problem in str(wrong.value)
    assert SECRET not in str(wrong.value)
    assert str(wrong.value).isprintable()


def test_a_setting_and_its_file_together_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nobody could say which one counts; an empty one does not."""
    (tmp_path / "url").write_text("postgresql://me:p@files/app")
    monkeypatch.setenv("DATABASE_URL_FILE", str(tmp_path / "url"))
    with pytest.raises(SettingError, match="DATABASE_URL: is set, and DATABASE_URL_FILE too; take"):
        load_config()
    monkeypatch.setenv("DATABASE_URL", " ")
    assert load_config().database.url.host == "files"
    assert load(DatabaseConfig, url="postgresql://u@given/d").url.host == "given"


NUMBERS = {
    variable: (kind, field)
    for kind in (WorkerConfig, DatabaseConfig)
    for variable, field in variables(kind).items()
    if kind.model_fields[field].annotation in {int, float}
}


def number_or_refusal(variable: str) -> float | SettingError:
    """What a number is read as."""
    kind, field = NUMBERS[variable]
    try:
        return float(getattr(load(kind), field))
    except SettingError as wrong:
        return wrong


@pytest.mark.parametrize("variable", NUMBERS)
@pytest.mark.parametrize(
    "value",
    [
        *("nan", "NaN", "-nan", "inf", "-inf", "Infinity", "1e400", "-1", "-0.5", "1e-400"),
        *("9" * 30, "9" * 5000, "1,5", "0x10", "1__0", "ten", "1 0", "٣", "1s", "true", "+", "."),
    ],
)
def test_a_number_is_finite_and_within_its_bounds_or_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """A limit of time that is no number would be no limit."""
    kind, field = NUMBERS[variable]
    monkeypatch.setenv(variable, value)
    number = number_or_refusal(variable)
    if isinstance(number, SettingError):
        assert str(number).startswith(f"{variable}: ")
        assert len(str(number)) < 300
        assert "\n" not in str(number)
    else:
        assert math.isfinite(number)
        assert number == float(value)
        assert number > 0 or field in {"keep_result", "max_overflow"}
    with pytest.raises(SettingError):
        load(kind, **{field: math.nan})


@pytest.mark.parametrize(("value", "meant"), [("1_0", 10), (" 10 ", 10), ("10.0", 10), ("+10", 10)])
def test_a_number_in_another_spelling_means_the_same(
    monkeypatch: pytest.MonkeyPatch, value: str, meant: int
) -> None:
    """Or it is refused; never another number."""
    for variable in NUMBERS:
        monkeypatch.setenv(variable, value)
        number = number_or_refusal(variable)
        assert isinstance(number, SettingError) or number == meant
        monkeypatch.delenv(variable)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"LEDGERQ_DB_LOCK_TIMEOUT": "10"}, "LEDGERQ_DB_IDLE_IN_TRANSACTION_TIMEOUT"),
        ({"LEDGERQ_DB_IDLE_IN_TRANSACTION_TIMEOUT": "5"}, "LEDGERQ_DB_LOCK_TIMEOUT"),
        ({"LEDGERQ_DB_IDLE_IN_TRANSACTION_TIMEOUT": "15"}, "LEDGERQ_LEASE"),
        (
            {"LEDGERQ_DB_IDLE_IN_TRANSACTION_TIMEOUT": "25", "LEDGERQ_LEASE": "20"},
            "LEDGERQ_LEASE",
        ),
    ],
)
def test_limits_of_time_in_the_wrong_order_are_refused_together(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], named: str
) -> None:
    """Lock < idle in transaction < lease; one line names both."""
    for variable, value in settings.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(SettingError, match=named) as wrong:
        load_config()
    assert set(settings) & set(str(wrong.value).replace(":", "").replace(",", "").split())
    monkeypatch.setenv("LEDGERQ_LEASE", "60")
    monkeypatch.setenv("LEDGERQ_DB_LOCK_TIMEOUT", "4")
    load_config()


def test_a_worker_has_its_own_name_in_the_database_whatever_the_url_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`?application_name=` and LEDGERQ_DB_APPLICATION_NAME are for producers and commands."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://u@h/d?application_name=crm")
    config = load_config()
    assert config.database.target.server_settings == {"application_name": "crm"}
    worker = config.for_worker().database
    assert worker.target.server_settings == {}
    assert worker.application_name.startswith("ledgerq:")


@pytest.mark.parametrize("name", ["my app", "crm\x1b[2J", "crmé", "x" * 64, ""])
def test_an_application_name_that_would_be_changed_or_break_a_line_is_refused(name: str) -> None:
    """PostgreSQL cuts it at 63 bytes and spells other characters out."""
    with pytest.raises(SettingError, match="LEDGERQ_DB_APPLICATION_NAME"):
        load(DatabaseConfig, application_name=name)
