"""Fixtures for tests with `ledgerq.testing`. pytest loads them wherever ledgerq is installed.

`job_tester` is a `JobTester` of `ledgerq_app`; each test gets a database of its own, with all tables. The ini option
`ledgerq_database` chooses the database: `sqlite` (a file, the default), `postgresql` (the server of the extra
`embedded`), or the URL of a PostgreSQL server on which the tests may create databases.
"""

import asyncio
import shutil
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.engine import URL, make_url

from ledgerq import embedded
from ledgerq.app import App
from ledgerq.cli.find_app import VARIABLE, find_app
from ledgerq.testing import JobTester

_OPTION = "ledgerq_database"
_QUICK = {"fsync": "off", "full_page_writes": "off"}  # a test's database need not survive a crash


def pytest_addoption(parser: pytest.Parser) -> None:
    """pytest's hook: defines the ini option `ledgerq_database`."""
    parser.addini(
        _OPTION, "sqlite, postgresql, or the URL of a PostgreSQL server", default="sqlite"
    )


@pytest.fixture(scope="session")
def ledgerq_app() -> App:
    """The `App` that the command line would find. To test another one, define a fixture of this name."""
    found = find_app()
    if found is None:
        raise pytest.UsageError(
            "no App is named: run pytest in the folder of your service, whose pyproject.toml has [tool.ledgerq] app, "
            f"or set {VARIABLE}, or define a fixture ledgerq_app that returns your App"
        )
    return found


@pytest.fixture(scope="session")
def ledgerq_new_database(
    ledgerq_app: App, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], str]]:
    """A function that makes a database with all tables, a copy of one template, and returns its URL."""
    chosen = str(pytestconfig.getini(_OPTION))
    folder = tmp_path_factory.mktemp("ledgerq")
    if chosen == "sqlite":
        yield _sqlite(ledgerq_app, folder)
    elif chosen == "postgresql":
        with embedded.postgresql(folder, _QUICK) as url, _postgresql(ledgerq_app, url) as made:
            yield made
    else:
        with _postgresql(ledgerq_app, chosen) as made:
            yield made


@pytest.fixture
def job_tester(ledgerq_app: App, ledgerq_new_database: Callable[[], str]) -> JobTester:
    """Runs jobs on a database of this test's own."""
    return JobTester(ledgerq_app, ledgerq_new_database())


def _sqlite(app: App, folder: Path) -> Callable[[], str]:
    template = folder / "template.sqlite3"
    _wait(JobTester(app, f"sqlite:///{template}").create_tables())

    def new() -> str:
        path = folder / f"{uuid4().hex}.sqlite3"
        shutil.copyfile(template, path)
        return f"sqlite:///{path}"

    return new


@contextmanager
def _postgresql(app: App, server: str) -> Iterator[Callable[[], str]]:
    url, template = make_url(server), f"ledgerq_test_{uuid4().hex}"
    made = [template]

    def new() -> str:
        made.append(f"ledgerq_test_{uuid4().hex}")
        _wait(_administer(url, f'CREATE DATABASE "{made[-1]}" TEMPLATE "{template}"'))
        return _shown(url.set(database=made[-1]))

    _wait(_administer(url, f'CREATE DATABASE "{template}"'))
    try:
        _wait(JobTester(app, _shown(url.set(database=template))).create_tables())
        yield new
    finally:
        for name in made:
            _wait(_administer(url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))


def _wait(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine in a thread: an async test may ask for a fixture while its own event loop runs."""
    with ThreadPoolExecutor(1) as threads:
        threads.submit(asyncio.run, work).result()


async def _administer(url: URL, statement: str) -> None:
    connection = await asyncpg.connect(_shown(url.set(drivername="postgresql")))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _shown(url: URL) -> str:
    return url.render_as_string(hide_password=False)
