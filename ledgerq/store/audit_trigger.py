"""Triggers that let PostgreSQL write a table's audit entries, for each statement from any client.

The statements may be run twice: they replace what an earlier version attached. The entries are like those of the
session's flush (see ledgerq.store.audited), but with the names of columns instead of attributes.
"""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Table, text

from ledgerq.database.own_schema import SCHEMA, quoted
from ledgerq.errors import UsageError
from ledgerq.store.audit_rules import TableRules

SETTING = "ledgerq.origin"  # a transaction's setting: the origin of its changes, as JSON
SET_ORIGIN = text(f"SELECT set_config('{SETTING}', :origin, true)")
WITHOUT_ORIGIN = "LQA01"  # SQLSTATE of the triggers: an author is required, and none is known
TRIGGER = "ledgerq_audit"  # … _insert, _update, _delete, _truncate
TRIGGERS = tuple(f"{TRIGGER}_{verb}" for verb in ("insert", "update", "delete", "truncate"))
_FUNCTIONS = Path(__file__).with_suffix(".sql")
VERSION_MARK = (
    "version of ledgerq's audit triggers:"  # in the source of the function that they call
)
_FIRES = {
    "insert": "AFTER INSERT ON {table} REFERENCING NEW TABLE AS new_rows",
    "update": "AFTER UPDATE ON {table} REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows",
    "delete": "AFTER DELETE ON {table} REFERENCING OLD TABLE AS old_rows",
    "truncate": "BEFORE TRUNCATE ON {table}",
}


def origin_as_json(origin: Any, *, required: bool = False) -> str:
    """The value of the setting `ledgerq.origin`. Without an origin: '', or if one is required, what triggers refuse."""
    if origin is None:
        return '{"required": true}' if required else ""
    return json.dumps({name: value for name, value in asdict(origin).items() if value is not None})


@dataclass(frozen=True, slots=True)
class AuditedTable:
    """A table to which triggers are attached. All names are those in the database."""

    schema: str | None
    name: str
    entity_type: str
    keys: Sequence[str]
    masked: Collection[str] = ()
    excluded: Collection[str] = ()

    @classmethod
    def of(cls, rules: TableRules) -> "AuditedTable":
        """The table as the rules of its classes want it."""
        named = rules.table.schema, rules.table.name
        return cls(*named, rules.entity_type, rules.keys, rules.masked, rules.excluded)

    def attach(self, schema: str = SCHEMA) -> list[str]:
        """The statements that attach the triggers, in order; `schema` is that of ledgerq's tables.

        Raises:
            UsageError: a column of the key is to be hidden: it is the id of each entry.
        """
        for option, names in (("--mask", self.masked), ("--exclude", self.excluded)):
            if in_key := sorted(set(names) & set(self.keys)):
                problem = f"{in_key[0]!r} is part of the primary key, which each entry shows"
                raise UsageError(option, problem, "leave it out")
        arguments = ", ".join(
            _literal(each)
            for each in (
                self.entity_type,
                _array(self.keys),
                _array(sorted(self.masked)),
                _array(sorted(self.excluded)),
            )
        )
        return [
            *_functions(schema),
            *(
                f"CREATE OR REPLACE TRIGGER {TRIGGER}_{verb} {when.format(table=self._quoted)} "
                f"FOR EACH STATEMENT EXECUTE FUNCTION {quoted(schema)}.audit_write_rows({arguments})"
                for verb, when in _FIRES.items()
            ),
        ]

    def detach(self) -> list[str]:
        """The statements that drop the triggers; the triggers' functions and the entries stay."""
        return [f"DROP TRIGGER IF EXISTS {TRIGGER}_{verb} ON {self._quoted}" for verb in _FIRES]

    @property
    def _quoted(self) -> str:
        own = quoted(self.name)
        return f"{quoted(self.schema)}.{own}" if self.schema else own


def functions_version() -> int:
    """The version of the triggers' functions; `ledgerq audit attach` replaces older ones."""
    [version] = re.findall(rf"{VERSION_MARK} (\d+)", _FUNCTIONS.read_text())
    return int(version)


def _functions(schema: str) -> list[str]:
    """The statements that create the triggers' functions in ledgerq's schema."""
    sql = _FUNCTIONS.read_text().replace("ledgerq.audit_", f"{quoted(schema)}.audit_")
    return [statement for each in sql.split(";\n\n") if (statement := each.strip().rstrip(";"))]


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _array(names: Collection[str]) -> str:
    """The names as the text of a PostgreSQL array."""
    inner = (name.replace("\\", "\\\\").replace('"', '\\"') for name in names)
    return "{" + ",".join(f'"{name}"' for name in inner) + "}"


def name_of(table: Table) -> str:
    """The table's name as `to_regclass` reads it."""
    own = quoted(table.name)
    return f"{quoted(table.schema)}.{own}" if table.schema else own


def listed_in(array: str) -> set[str]:
    """The column names in the text of an array. Only arrays that `attach` has made are read: each name is in quotes."""
    quoted_names = re.findall(r'"((?:[^"\\]|\\.)*)"', array)
    return {re.sub(r"\\(.)", r"\1", name) for name in quoted_names}
