"""A virtual environment for each peer, made when it is first needed and again when its versions change."""

import subprocess
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".bench" / "venvs"
PINS = ROOT / "bench" / "peers"


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
    wanted = "".join((PINS / name).read_text() for name in ("common.txt", f"{peer}.txt"))
    done = FOLDER / peer / ".installed"
    if done.exists() and done.read_text() == wanted:
        return
    venv.create(FOLDER / peer, with_pip=True, clear=True)
    pip = [str(python_of(peer)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    files = ["-r", str(PINS / "common.txt"), "-r", str(PINS / f"{peer}.txt")]
    installed = subprocess.run([*pip, *files], capture_output=True, text=True, check=False)
    if installed.returncode:
        raise NoEnvironment(f"{peer}: {installed.stderr.strip()[-500:]}")
    done.write_text(wanted)


def versions(peer: str) -> dict[str, str]:
    """What is installed there."""
    freeze = subprocess.run(
        [python_of(peer), "-m", "pip", "freeze", "--disable-pip-version-check"],
        capture_output=True,
        text=True,
        check=True,
    )
    pairs = (line.partition("==") for line in freeze.stdout.splitlines())
    return {name: version for name, _, version in pairs if version}
