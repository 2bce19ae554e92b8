"""A virtual environment for each peer, made when it is first needed and again when its versions change."""

import subprocess
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".bench" / "venvs"
PINS = ROOT / "bench" / "peers"
CHART = "chart"  # the environment that draws


class NoEnvironment(Exception):
    """The peer could not be installed."""


def python_of(peer: str) -> Path:
    """Its interpreter."""
    return FOLDER / peer / "bin" / "python"


def ensure(peer: str) -> None:
    """Install what `bench/peers/<peer>.txt` pins, unless that is done already.

    Raises:
        NoEnvironment: pip could not; with the end of what it said.
    """
    pins = _pins(peer)
    wanted = "".join(file.read_text() for file in pins)
    done = FOLDER / peer / ".installed"
    if done.exists() and done.read_text() == wanted:
        return
    venv.create(FOLDER / peer, with_pip=True, clear=True)
    pip = [str(python_of(peer)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    files = [argument for file in pins for argument in ("-r", str(file))]
    installed = subprocess.run([*pip, *files], capture_output=True, text=True, check=False)
    if installed.returncode:
        raise NoEnvironment(f"{peer}: {installed.stderr.strip()[-500:]}")
    done.write_text(wanted)


def _pins(name: str) -> list[Path]:
    if name == CHART:
        return [ROOT / "bench" / "chart.txt"]
    return [PINS / "common.txt", PINS / f"{name}.txt"]


def versions(peer: str) -> dict[str, str]:
    """What is installed there."""
    freeze = subprocess.run(
        [str(python_of(peer)), "-m", "pip", "freeze", "--disable-pip-version-check"],
        capture_output=True,
        text=True,
        check=True,
    )
    pairs = (line.partition("==") for line in freeze.stdout.splitlines())
    return {name: version for name, _, version in pairs if version}
