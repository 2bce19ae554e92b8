"""The errors of the library are drawn in one tree, and it is true."""

import re
from inspect import isclass

import ledgerq.errors
from ledgerq.errors import LedgerqError

TREE = re.findall(
    r"^((?:│   |├── |└── |    )*)(\w+) {2,}\S", ledgerq.errors.__doc__ or "", re.MULTILINE
)


def test_the_tree_names_every_error_of_the_module() -> None:
    """And nothing else."""
    drawn = {name for _, name in TREE} | {"RetryLater", "Snooze"}
    assert drawn == {
        name for name, each in vars(ledgerq.errors).items()
        if isclass(each) and issubclass(each, Exception)
    }  # fmt: skip


def test_each_error_derives_from_the_one_above_it_in_the_tree() -> None:
    """As it is drawn."""
    above: list[str] = []
    for indent, name in TREE:
        depth = len(indent) // 4
        above = [*above[:depth], name]
        if depth:
            error, parent = (getattr(ledgerq.errors, each) for each in (name, above[depth - 1]))
            assert parent in error.__bases__, name
        elif name != "LedgerqError":
            assert not issubclass(getattr(ledgerq.errors, name), LedgerqError)
