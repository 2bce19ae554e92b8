"""Under `python -OO` there are no docstrings and no assert statements."""

import subprocess
import sys

EACH_ERROR = """
import pkgutil, importlib, ledgerq
for module in pkgutil.walk_packages(ledgerq.__path__, "ledgerq."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from ledgerq.errors import Transient
for kind in (Transient, *Transient.__subclasses__()):
    print(kind("40001"))
"""


def test_errors_of_the_database_say_what_they_are_without_docstrings() -> None:
    """All modules can be imported, too."""
    ran = subprocess.run(
        [sys.executable, "-OO", "-c", EACH_ERROR], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "A concurrent transaction changed the same data first (40001)" in ran.stdout
