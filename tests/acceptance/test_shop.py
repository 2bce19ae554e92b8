"""`examples/shop` is a stranger: its packages are named like this repository's, and it has nothing but the wheel.

The wheel is built, and installed with the locked dependencies into an environment of its own; the shop is copied to a
folder of its own. All that runs there are commands as a person gives them.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import asyncpg
import httpx
import pytest
from sqlalchemy.engine import URL

from tests.acceptance.processes import ROOT, Process
from tests.conftest import plain

pytestmark = pytest.mark.timeout(300)  # a fresh machine downloads the dependencies

READ_AT_RUN_TIME = {
    "ledgerq/broker/lua/*.lua",
    "ledgerq/cli/template/*.txt",
    "ledgerq/cli/template/migrations/*.txt",
    "ledgerq/cli/template/migrations/versions/*.txt",
    "ledgerq/store/*.sql",
    "ledgerq/store/versions/*.sql",
    "ledgerq/py.typed",
}
# one process for what are two commands of Alembic: most of a command's time is its imports
CHECK_AND_DOWNGRADE = """
import alembic.config, db, ledgerq

print(ledgerq.__file__, db.__file__)
alembic.config.main(["check"])
alembic.config.main(["downgrade", "base"])
"""
OF_A_PERSON = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("LEDGERQ_", "PYTEST", "PYTHON", "VIRTUAL_ENV", "DATABASE_URL"))
}


@dataclass(frozen=True)
class Shop:
    """The copy of the shop, the environment's programs, and its settings."""

    folder: Path
    programs: Path
    settings: dict[str, str]

    def run(self, program: str, *words: str) -> str:
        """Run a command to its end in the shop's folder; what it printed."""
        return run([str(self.programs / program), *words], self.folder, self.settings)

    @contextmanager
    def process(self, program: str, *words: str) -> Iterator[Process]:
        """A command that goes on; SIGTERM ends it well."""
        command = [str(self.programs / program), *words]
        process = Process(command, {**OF_A_PERSON, **self.settings}, cwd=self.folder, anew=True)
        try:
            yield process
            process.signal(signal.SIGTERM)
            assert process.wait() in {0, -signal.SIGTERM}, "\n".join(process.lines[-20:])
        finally:
            process.close()


def run(command: list[str], folder: Path, settings: dict[str, str]) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**OF_A_PERSON, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from this repository, without network."""
    folder = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], ROOT, {})
    [built] = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of a fresh environment, in which the wheel is installed."""
    folder = tmp_path_factory.mktemp("fresh")
    uv, python = str(Path(sys.executable).with_name("uv")), str(folder / "bin" / "python")
    run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], folder, {})
    install = [uv, "pip", "install", "--quiet", "--python", python]
    lock = str(ROOT / "requirements" / "dev.txt")
    run([*install, "--require-hashes", "-r", lock], folder, {})
    run([*install, "--no-deps", str(wheel)], folder, {})
    return folder / "bin"


@pytest.fixture
def shop(programs: Path, tmp_path: Path, empty_postgresql_url: URL, redis_url: str) -> Shop:
    """A copy of it, on servers without a table or a job."""
    left_out = shutil.ignore_patterns("__pycache__", ".ledgerq", ".*_cache", "mailbox")
    folder = shutil.copytree(ROOT / "examples" / "shop", tmp_path / "shop", ignore=left_out)
    settings = {
        "DATABASE_URL": plain(empty_postgresql_url),
        "REDIS_URL": redis_url,
        "LEDGERQ_LOG_FORMAT": "json",
        "LEDGERQ_POLL_DELAY": "0.02",
    }
    return Shop(folder, programs, settings)


def test_the_wheel_holds_the_library_alone(wheel: Path) -> None:
    """All of it, with the files that it reads when it runs."""
    with ZipFile(wheel) as opened:
        held = {name for name in opened.namelist() if ".dist-info/" not in name}
    source = {path for path in (ROOT / "ledgerq").rglob("*") if path.is_file()}
    names = {path.relative_to(ROOT).as_posix() for path in source if path.suffix != ".pyc"}
    assert held == names
    data = {name for pattern in READ_AT_RUN_TIME for name in named(pattern)}
    assert {name for name in held if not name.endswith(".py")} == data


def named(pattern: str) -> list[str]:
    """The files of such names; a pattern without any says nothing."""
    found = [path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern)]
    assert found, pattern
    return found


def test_its_own_tests_pass(shop: Shop, postgresql: URL) -> None:
    """With the fixture that ledgerq brings along; here on a server that runs already."""
    server = f"ledgerq_database={plain(postgresql)}"
    assert "passed" in shop.run("pytest", "-q", "-p", "no:cacheprovider", "-o", server)


def test_an_order_takes_its_way(shop: Shop) -> None:
    """From the migrations by HTTP through two queues to the customer's mail, each step once."""
    asyncio.run(migrate_up_and_down(shop))
    with ExitStack() as stack:
        api = stack.enter_context(shop.process("uvicorn", "api:api", "--port", "0"))
        workers = stack.enter_context(shop.process("ledgerq", "worker", "--processes", "2"))
        mail = stack.enter_context(shop.process("ledgerq", "worker", "--queue", "mail"))
        address = api.wait_for_line(r"running on (http://\S+)", seconds=60)[1]
        http = stack.enter_context(httpx.Client(base_url=address, timeout=30))
        customer = send(http, "/customers", json={"name": "Ada", "email": "ada@example.com"})
        order = send(http, "/orders", json={"customer_id": customer["id"], "item": "teapot"})
        mail.wait_for("job.completed", seconds=60)
        workers.wait_for("worker.started", times=2)
        task = pack_again(shop, order["id"])
        done = f"/tasks/{task}/done"
        answers = [send(http, done, params={"packer": "Bob"}) for _ in range(2)]  # clicked twice
        assert answers == [{**order, "status": "sent"}] * 2
        mail.wait_for("job.completed", times=2)
        assert {each["kind"] for each in mail.named("job.completed")} == {"mail_customer"}
        assert "mail_customer" not in {each["kind"] for each in workers.named("job.completed")}
        asyncio.run(check_rows(shop, customer["id"], order, task))
        check_commands(shop, order["id"])
    assert len(list((shop.folder / "mailbox").iterdir())) == 2


async def migrate_up_and_down(shop: Shop) -> None:
    """Its history brings up its tables and ledgerq's, and knows no others; it takes both back."""
    tables = "SELECT to_regclass('public.task') AS task, to_regclass('ledgerq.audit_log') AS log"
    brought_up = "ledgerq's tables are at version 3, the app's own at 0002"
    assert brought_up in shop.run("ledgerq", "migrate")
    assert all((await rows(shop, tables))[0])
    files, checked = shop.run("python", "-c", CHECK_AND_DOWNGRADE).splitlines()
    installed, own = map(Path, files.split())
    assert installed.is_relative_to(shop.programs.parent)
    assert own == shop.folder / "db" / "__init__.py"
    assert "No new upgrade operations" in checked
    assert not any((await rows(shop, tables))[0])
    assert brought_up in shop.run("ledgerq", "migrate")


def send(http: httpx.Client, path: str, **what: Any) -> dict[str, Any]:
    answer = http.post(path, **what)
    assert answer.is_success, answer.text
    said: dict[str, Any] = answer.json()
    return said


def pack_again(shop: Shop, order_id: str) -> str:
    """Ask for the same job straight on Redis: it answers as it did, with the task that it made."""
    payload = json.dumps({"order_id": order_id})
    same = ["--job-id", f"shop:pack:{order_id}", "--payload", payload, "--wait", "30", "--json"]
    result: str = json.loads(shop.run("ledgerq", "enqueue", "pack_order", *same))["result"]
    return result


async def check_rows(shop: Shop, customer_id: str, order: dict[str, Any], task: str) -> None:
    """Each row once, each change with its author, the address in no entry."""
    tasks = await rows(shop, "SELECT id::text, order_id::text, is_done FROM task")
    entries = await rows(
        shop, "SELECT entity_type, action, actor, after FROM ledgerq.audit_log ORDER BY id"
    )
    assert [tuple(row) for row in tasks] == [(task, order["id"], True)]
    ada, bob = f"customer:{customer_id}", "packer:Bob"
    assert sorted(tuple(row)[:3] for row in entries) == sorted(
        [
            ("customer", "create", ada),
            ("shop_order", "create", ada),
            ("shop_order", "update", ada),
            ("task", "create", ada),
            ("shop_order", "mailed", ada),
            ("shop_order", "update", bob),
            ("task", "update", bob),
            ("shop_order", "mailed", bob),
        ]
    )
    [registered] = [json.loads(row["after"]) for row in entries if row["entity_type"] == "customer"]
    assert registered == {"id": customer_id, "name": "Ada", "email": "***"}
    assert "ada@example.com" not in str(entries)


async def rows(shop: Shop, query: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(shop.settings["DATABASE_URL"])
    try:
        found: list[asyncpg.Record] = await connection.fetch(query)
    finally:
        await connection.close()
    return found


def check_commands(shop: Shop, order_id: str) -> None:
    """What an operator sees: the order's story, and that nothing waits or failed."""
    told = json.loads(shop.run("ledgerq", "audit", "shop_order", order_id, "--json"))["entries"]
    assert [(each["action"], each["after"].get("status")) for each in told] == [
        ("create", "placed"),
        ("update", "packing"),
        ("mailed", None),
        ("update", "sent"),
        ("mailed", None),
    ]
    status = json.loads(shop.run("ledgerq", "status", "--json"))
    assert status["ledger"]["staged"] == status["ledger"]["dead"] == 0
    assert status["ledger"]["done"] >= 3  # and what the schedule asked for
    assert len(status["queues"]) == 2
