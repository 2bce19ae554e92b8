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
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import asyncpg
import httpx
import pytest
from sqlalchemy.engine import URL

from ledgerq.store.versions import NEWEST
from tests.acceptance.processes import ROOT, Process
from tests.conftest import plain
from tests.support import eventually

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
ENQUEUE = "SELECT ledgerq.enqueue_job($1, $2, job_id => $3)"
ENDED = "SELECT state FROM ledgerq.processed_job WHERE job_id = $1"
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
        """A command that goes on; SIGTERM ends it well, unless the test has killed it."""
        command = [str(self.programs / program), *words]
        process = Process(command, {**OF_A_PERSON, **self.settings}, cwd=self.folder, anew=True)
        try:
            yield process
            process.signal(signal.SIGTERM)
            assert process.wait() in {0, -signal.SIGTERM, -signal.SIGKILL}, "\n".join(
                process.lines[-20:]
            )
        finally:
            process.close()

    @contextmanager
    def service(self, *words: str) -> Iterator[httpx.Client]:
        """A client of a service that uvicorn runs."""
        with self.process("uvicorn", *words, "--port", "0") as uvicorn:
            address = uvicorn.wait_for_line(r"running on (http://\S+)", seconds=60)[1]
            with httpx.Client(base_url=address, timeout=30) as http:
                yield http

    @contextmanager
    def partners(self) -> Iterator[httpx.Client]:
        """The payment service and the supplier, which the workers call."""
        with self.service("partners:partners") as http:
            self.settings["SHOP_PARTNERS"] = str(http.base_url)
            yield http


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
    """From the migrations by HTTP and a payment through two queues to the customer's mail, each step once."""
    asyncio.run(migrate_up_and_down(shop))
    with ExitStack() as stack:
        partners = stack.enter_context(shop.partners())
        http = stack.enter_context(shop.service("api:api"))
        workers = stack.enter_context(shop.process("ledgerq", "worker", "--processes", "2"))
        mail = stack.enter_context(shop.process("ledgerq", "worker", "--queue", "mail"))
        asyncio.run(import_products(shop))
        customer = send(http, "/customers", json={"name": "Ada", "email": "ada@example.com"})
        order = send(http, "/orders", json=new(customer["id"]))
        mail.wait_for("job.completed", seconds=60)
        workers.wait_for("worker.started", times=2)
        task = pack_again(shop, order["id"])
        done = f"/tasks/{task}/done"
        [charge] = partners.get("/charges").json()
        answers = [send(http, done, params={"packer": "Bob"}) for _ in range(2)]  # clicked twice
        assert answers == [{**order, "status": "sent", "charge_id": charge["id"]}] * 2
        mail.wait_for("job.completed", times=2)
        assert {each["kind"] for each in mail.named("job.completed")} == {"mail_customer"}
        assert "mail_customer" not in {each["kind"] for each in workers.named("job.completed")}
        asyncio.run(check_rows(shop, customer["id"], order, task))
        check_commands(shop, order["id"])
    assert len(list((shop.folder / "mailbox").iterdir())) == 2


async def migrate_up_and_down(shop: Shop) -> None:
    """Its history brings up its tables and ledgerq's, and knows no others; it takes both back."""
    tables = "SELECT to_regclass('public.task') AS task, to_regclass('ledgerq.audit_log') AS log"
    brought_up = f"ledgerq's tables are at version {NEWEST}, the app's own at 0003"
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


async def import_products(shop: Shop) -> None:
    """A producer in SQL; the answer is in the database."""
    await rows(shop, ENQUEUE, "import_products", "{}", "import")
    await reached(shop, ENDED, "import")


def new(customer_id: str) -> dict[str, str]:
    """What a customer asks for."""
    return {"customer_id": customer_id, "item": "teapot", "card": "card_ok"}


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
        shop,
        "SELECT entity_type, action, actor, after FROM ledgerq.audit_log"
        " WHERE entity_type NOT IN ('product', 'job') ORDER BY id",
    )
    assert [tuple(row) for row in tasks] == [(task, order["id"], True)]
    ada, bob = f"customer:{customer_id}", "packer:Bob"
    assert sorted(tuple(row)[:3] for row in entries) == sorted(
        [
            ("customer", "create", ada),
            ("shop_order", "create", ada),
            ("shop_order", "update", ada),  # paid
            ("shop_order", "update", ada),  # is being packed
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


async def rows(shop: Shop, query: str, *given: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(shop.settings["DATABASE_URL"])
    try:
        found: list[asyncpg.Record] = await connection.fetch(query, *given)
    finally:
        await connection.close()
    return found


def check_commands(shop: Shop, order_id: str) -> None:
    """What an operator sees: the order's story, and that nothing waits or failed."""
    told = json.loads(shop.run("ledgerq", "audit", "shop_order", order_id, "--json"))["entries"]
    assert [(each["action"], each["after"].get("status")) for each in told] == [
        ("create", "placed"),
        ("update", "paid"),
        ("update", "packing"),
        ("mailed", None),
        ("update", "sent"),
        ("mailed", None),
    ]
    status = json.loads(shop.run("ledgerq", "status", "--json"))
    assert status["ledger"]["staged"] == status["ledger"]["dead"] == 0
    assert status["ledger"]["done"] >= 3  # and what the schedule asked for
    assert len(status["queues"]) == 2


SLOW, HELD, REFUSED = (f"0000000{number}-0000-4000-8000-000000000000" for number in (1, 2, 3))
CUSTOMER = "INSERT INTO customer (id, name, email) VALUES (gen_random_uuid(), 'Ada', 'a@b.c')"
ORDER = """
INSERT INTO shop_order (id, customer_id, item, price, status)
SELECT $1::text::uuid, id, 'teapot', 2500, 'placed' FROM customer
"""
STEP = "SELECT name FROM ledgerq.job_step WHERE job_id = $1 AND result @> $2"
PAID = "SELECT FROM shop_order WHERE id::text = $1 AND charge_id IS NOT NULL"


async def test_a_killed_worker_charges_nobody_twice_and_imports_no_page_twice(shop: Shop) -> None:
    """It dies while one charge has no answer, another one's answer is recorded, and the third page is on its way."""
    shop.run("ledgerq", "migrate")
    shop.settings["LEDGERQ_LEASE"] = "3"  # a killed worker's jobs come back after it
    with shop.partners() as partners:
        await ask_for_three_charges_and_an_import(shop)
        async with in_the_way(shop):
            with shop.process("ledgerq", "worker") as worker:
                await eventually(lambda: charged(partners, SLOW), seconds=60)
                await reached(shop, STEP, HELD, '{"amount": 2500}')
                await reached(shop, STEP, "import", "[2, 3, 4]")
                worker.signal(signal.SIGKILL)
            waiting = told(shop, "import")
            assert waiting["progress"]["of"] == 3
            assert [step["name"] for step in waiting["steps"]] == ["pages"]
        with shop.process("ledgerq", "worker"):
            for job in (SLOW, HELD, REFUSED, "import"):
                await reached(shop, ENDED, job)
            [letter] = await rows(shop, "SELECT problems FROM ledgerq.dead_letter")
            assert "insufficient funds" in letter["problems"]
            other = json.dumps({"order_id": REFUSED, "card": "card_ok"})
            shop.run("ledgerq", "dead", "replay", REFUSED, "--payload", other)
            await reached(shop, PAID, REFUSED)
        check_calls(partners)
    imported = told(shop, "import")
    assert (imported["result"], imported["progress"]["done"]) == (6, 3)
    assert len(await rows(shop, "SELECT FROM product")) == 6


async def ask_for_three_charges_and_an_import(shop: Shop) -> None:
    await rows(shop, CUSTOMER)
    for order, card in ((SLOW, "card_slow"), (HELD, "card_ok"), (REFUSED, "card_declined")):
        await rows(shop, ORDER, order)
        payload = json.dumps({"order_id": order, "card": card})
        await rows(shop, ENQUEUE, "charge_card", payload, order)
    await rows(shop, ENQUEUE, "import_products", "{}", "import")


@asynccontextmanager
async def in_the_way(shop: Shop) -> AsyncIterator[None]:
    """Hold the row of an order, and one of the third page: who would write them waits."""
    connection = await asyncpg.connect(shop.settings["DATABASE_URL"])
    try:
        await connection.execute("BEGIN; INSERT INTO product (name, price) VALUES ('tray', 1)")
        await connection.execute("SELECT FROM shop_order WHERE id::text = $1 FOR UPDATE", HELD)
        yield
    finally:
        await connection.close()  # which rolls back


async def reached(shop: Shop, query: str, *given: str) -> None:
    """Wait until the query finds a row; on a busy machine a process takes long to start."""
    await eventually(lambda: rows(shop, query, *given), seconds=60)


async def charged(partners: httpx.Client, order: str) -> bool:
    made = await asyncio.to_thread(partners.get, "/charges")
    return order in {each["order"] for each in made.json()}


def told(shop: Shop, job_id: str) -> dict[str, Any]:
    """What `ledgerq job` says."""
    said: dict[str, Any] = json.loads(shop.run("ledgerq", "job", job_id, "--json"))
    return said


def check_calls(partners: httpx.Client) -> None:
    """Each order was charged once. Only the call that had no answer was made again, with its key."""
    charges = partners.get("/charges").json()
    assert sorted(each["order"] for each in charges) == [SLOW, HELD, REFUSED]
    asked = Counter(partners.get("/asked").json())
    calls = {each["order"]: asked[f"charge {each['key']}"] for each in charges}
    assert calls == {SLOW: 2, HELD: 1, REFUSED: 1}
    assert (asked["page 1"], asked["page 2"]) == (1, 1)
    assert asked["page 3"] in {1, 2}  # it had not come in; the killed worker may have asked for it
