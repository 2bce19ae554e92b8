"""No docker engine here: the files are parsed, and compared with the code that they run."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder
from typer.main import get_command

from ledgerq.cli.main import commands as app
from ledgerq.config import WorkerConfig
from ledgerq.database.settings import DatabaseConfig
from ledgerq.settings import variables
from worker.settings import WebhookSettings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]
OURS = ("migrate", "worker")


def instructions(name: str) -> list[str]:
    joined = DOCKERFILE.replace("\\\n", " ")
    return re.findall(rf"^{name} +(.*)$", joined, flags=re.MULTILINE)


def check_ledgerq(arguments: list[str]) -> None:
    """The command exists, and so do its options."""
    command = COMMANDS[arguments[0]]
    options = {option for parameter in command.params for option in parameter.opts}
    assert set(arguments[1:]) <= options


@pytest.mark.parametrize("service", OURS)
def test_our_services_run_commands_that_exist(service: str) -> None:
    """`ledgerq COMMAND`, by the image's entry point."""
    assert instructions("ENTRYPOINT") == ['["ledgerq"]']
    check_ledgerq(SERVICES[service]["command"])


def test_the_health_checks_run_commands_that_exist() -> None:
    """The image's own and the compose file's are the same."""
    (image_check,) = re.findall(r"HEALTHCHECK .*?CMD (\[.*?\])", DOCKERFILE, flags=re.DOTALL)
    test = SERVICES["worker"]["healthcheck"]["test"]
    assert ["CMD", *json.loads(image_check)] == test
    assert test[1] == "ledgerq"
    check_ledgerq(test[2:])


@pytest.mark.parametrize("service", OURS)
def test_our_services_set_variables_that_the_code_reads(service: str) -> None:
    """And the two that it can't do without."""
    known = {
        name for kind in (WorkerConfig, DatabaseConfig, WebhookSettings) for name in variables(kind)
    }
    given = set(SERVICES[service]["environment"])
    assert given <= known
    assert {"DATABASE_URL", "REDIS_URL"} <= given


def test_the_urls_name_the_services_their_ports_and_their_users() -> None:
    """What the worker connects to is what the compose file starts."""
    environment = SERVICES["worker"]["environment"]
    database = DatabaseConfig(url=re.sub(r"\$\{[^}]*\}", "secret", environment["DATABASE_URL"]))
    server = SERVICES["postgres"]["environment"]
    assert database.url.host in SERVICES
    assert database.url.port == 5432
    assert database.url.username == server["POSTGRES_USER"]
    assert database.url.database == server["POSTGRES_DB"]
    redis_url = re.sub(r"\$\{[^}]*\}", "secret", environment["REDIS_URL"])
    config = WorkerConfig(redis_url=redis_url)
    assert "@redis:6379/0" in config.redis_url.get_secret_value()
    assert "redis" in SERVICES


def test_the_stop_grace_period_is_longer_than_all_that_a_worker_may_take_to_stop() -> None:
    """Docker must not kill what is still rolling back, or lets go; the docs say so to others."""
    grace = int(SERVICES["worker"]["stop_grace_period"].removesuffix("s"))
    environment = SERVICES["worker"]["environment"]
    drain = int(environment["LEDGERQ_DRAIN_TIMEOUT"])
    assert drain == WorkerConfig.model_fields["drain_timeout"].default
    rest = float(
        environment.get("LEDGERQ_STOP_GRACE", WorkerConfig.model_fields["stop_grace"].default)
    )
    assert grace >= drain + 3 * rest + 5
    page = " ".join((ROOT / "docs" / "howto" / "deploy.md").read_text().split())
    assert (
        "grace period that is some seconds longer than `LEDGERQ_DRAIN_TIMEOUT` and three times `LEDGERQ_STOP_GRACE`"
        in page
    )


def test_redis_keeps_what_it_acknowledged() -> None:
    """AOF, and never an eviction: an evicted body is a lost job."""
    command = SERVICES["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"


def test_nothing_starts_before_what_it_needs() -> None:
    """Servers healthy, then one migration, then workers; any number of them."""
    needs = SERVICES["worker"]["depends_on"]
    assert needs["migrate"]["condition"] == "service_completed_successfully"
    assert SERVICES["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert SERVICES["migrate"]["restart"] == "no"
    assert "container_name" not in SERVICES["worker"]
    assert "ports" not in SERVICES["worker"]
    for service in ("postgres", "redis", "worker"):
        assert SERVICES[service]["healthcheck"]["test"]
    # by TCP: while the image makes its database, a server answers on the socket alone
    assert "--host=127.0.0.1" in SERVICES["postgres"]["healthcheck"]["test"]


def test_the_image_is_built_from_the_lock_and_runs_without_root() -> None:
    """Two stages; the last one has no build tools and a user of its own."""
    assert len(instructions("FROM")) == 2
    assert instructions("USER") == ["ledgerq"]
    assert all(
        "--require-hashes" in line or "--no-deps" in line for line in instructions("RUN pip")
    )
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for line in instructions("COPY"):
        for source in line.split()[:-1]:
            if not source.startswith(("-", "/")):
                assert (ROOT / source).exists(), source
                assert any(f"!{part}" in ignored for part in (source, source.split("/")[0]))


def test_the_image_has_what_the_task_manager_needs_and_the_wheel_does_not_ask_for_it() -> None:
    """`worker/webhook.py` imports httpx; a service that has ledgerq alone never does."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lock = (ROOT / "requirements" / "runtime.txt").read_text()
    for requirement in project["dependency-groups"]["taskmanager"]:
        name = re.split("[>=<]", requirement)[0]
        assert re.search(rf"^{name}==", lock, re.MULTILINE)
        assert not any(each.startswith(name) for each in project["project"]["dependencies"])


@pytest.mark.parametrize("name", ["runtime", "dev", "build", "docs"])
def test_the_lock_pins_with_hashes_and_names_no_host(name: str) -> None:
    """Whoever installs chooses the registry; what is installed is chosen here."""
    lock = (ROOT / "requirements" / f"{name}.txt").read_text()
    assert "://" not in lock
    for requirement in re.findall(r"^\S.*(?:\n[ ]+.*)*", lock, flags=re.MULTILINE):
        assert "==" in requirement
        assert "--hash=sha256:" in requirement


def test_the_wheel_holds_the_library_and_nothing_else(tmp_path: Path) -> None:
    """The task manager is an application of it; scripts and the marker of types come along."""
    wheel = next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    with ZipFile(wheel) as file:
        names = file.namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"ledgerq"}
    assert {"ledgerq/py.typed", "ledgerq/broker/lua/claim.lua"} <= set(names)
