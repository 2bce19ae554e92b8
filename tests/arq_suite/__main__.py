"""`python -m tests.arq_suite`: download arq's source, run its tests on JobWorker, say how many pass.

Its tests are not in this repository. The source and what its tests need beside ours are kept in `.bench/arq-suite`.
`--stock` runs them on arq's own worker instead, for comparison. The exit status is 1 if fewer pass than EXPECTED.
"""

import argparse
import os
import re
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import redis as redis_sync

from ledgerq import embedded

EXPECTED = 170  # of 172: two hand a worker mock objects for its running tasks
HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / ".bench" / "arq-suite"
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
PLUGINS = ("pytest_asyncio.plugin", "pytest_mock", "pytest_timeout", "on_job_worker")


def main() -> int:
    """Run them; answers the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.arq_suite", description=__doc__)
    parser.add_argument("--stock", action="store_true", help="on arq's own worker")
    parser.add_argument("rest", nargs="*", help="for pytest, after --")
    asked = parser.parse_args()
    source, packages = _source(version("arq")), _packages()
    with embedded.redis(FOLDER / "redis", tcp=True) as url:
        _let_in_without_password(url)
        passed, report = _run(source, packages, url, asked.rest, stock=asked.stock)
    tried = "arq.Worker" if asked.stock else "JobWorker"
    sys.stdout.write(f"{report}\narq's own suite on {tried}: {passed} pass\n")
    return 0 if asked.rest or passed >= EXPECTED else 1


def _source(release: str) -> Path:
    """arq's source of the release that we use, tests included."""
    unpacked = FOLDER / f"arq-{release}"
    if not unpacked.exists():
        wanted = ("download", "--no-deps", "--no-binary", ":all:", "--dest", str(FOLDER))
        subprocess.run([*PIP, *wanted, f"arq=={release}"], check=True)
        with tarfile.open(FOLDER / f"arq-{release}.tar.gz") as archive:
            archive.extractall(FOLDER, filter="data")
    return unpacked


def _packages() -> Path:
    """An older pytest and what else arq's tests import; they come before those of our environment."""
    pins = HERE / "requirements.txt"
    wanted, folder = pins.read_text(), FOLDER / "packages"
    done = FOLDER / "packages.txt"
    if not done.exists() or done.read_text() != wanted:
        into = ("install", "--target", str(folder), "--upgrade", "-r", str(pins))
        subprocess.run([*PIP, *into], check=True)
        done.write_text(wanted)
    return folder


def _let_in_without_password(url: str) -> None:
    with redis_sync.Redis.from_url(url) as client:
        client.config_set("requirepass", "")


def _run(
    source: Path, packages: Path, url: str, rest: list[str], *, stock: bool
) -> tuple[int, str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE / "plugin"), str(packages)]),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "ARQ_SUITE_REDIS": url,
        "ARQ_SUITE_STOCK": "1" if stock else "",
    }
    plugins = [word for name in PLUGINS for word in ("-p", name)]
    # what is deprecated since that release is no failure of it
    command = [sys.executable, "-m", "pytest", *plugins, "-q", "-rfE", "--tb=no", "-W", "ignore"]
    ended = subprocess.run(
        [*command, *rest], cwd=source, env=environment, capture_output=True, text=True, check=False
    )
    found = re.search(r"(\d+) passed", ended.stdout)
    return int(found[1]) if found else 0, ended.stdout + ended.stderr


if __name__ == "__main__":
    sys.exit(main())
