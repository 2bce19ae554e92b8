"""PostgreSQL writes the entries of a table itself: triggers for each statement, whatever way it comes by.

The statements can be run again: they replace what an earlier version attached. The entries are those that the
session's flush writes (see ledgerq.store.audited), under the names of columns, not of attributes.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Table, text

from ledgerq.database.engine import Database, unreachable
from ledgerq.database.own_schema import SCHEMA, quoted
from ledgerq.errors import SettingError

SETTING = "ledgerq.origin"  # of a transaction: whose doing its changes are
SET_ORIGIN = text(f"SELECT set_config('{SETTING}', :origin, true)")
TRIGGER = "ledgerq_audit"  # … _insert, _update, _delete, _truncate
_FUNCTIONS = Path(__file__).with_suffix(".sql")
_FIRES = {
    "insert": "AFTER INSERT ON {table} REFERENCING NEW TABLE AS new_rows",
    "update": "AFTER UPDATE ON {table} REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows",
    "delete": "AFTER DELETE ON {table} REFERENCING OLD TABLE AS old_rows",
    "truncate": "BEFORE TRUNCATE ON {table}",
}


def origin_as_json(origin: Any) -> str:
    """What the setting holds; empty if nobody is known."""
    if origin is None:
        return ""
    return json.dumps({name: value for name, value in asdict(origin).items() if value is not None})


@dataclass(frozen=True, slots=True)
class AuditedTable:
    """A table that triggers are attached to, by the names that the database has."""

    schema: str
    name: str
    entity_type: str
    keys: Sequence[str]
    masked: Collection[str] = ()
    excluded: Collection[str] = ()

    def attach(self, schema: str = SCHEMA) -> list[str]:
        """The statements, in their order; `schema` is ledgerq's own."""
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
        """The statements that take the triggers away; the functions stay, and the entries."""
        return [f"DROP TRIGGER IF EXISTS {TRIGGER}_{verb} ON {self._quoted}" for verb in _FIRES]

    @property
    def _quoted(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.name)}"


def _functions(schema: str) -> list[str]:
    """The setting and the command are called `ledgerq` in each schema."""
    sql = _FUNCTIONS.read_text().replace("ledgerq.audit_", f"{quoted(schema)}.audit_")
    return [statement for each in sql.split(";\n\n") if (statement := each.strip().rstrip(";"))]


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _array(names: Collection[str]) -> str:
    """The names as the text of an array."""
    inner = (name.replace("\\", "\\\\").replace('"', '\\"') for name in names)
    return "{" + ",".join(f'"{name}"' for name in inner) + "}"


_ATTACHED = text(
    "SELECT name, EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass(name) AND tgname = :trigger) AS attached "
    "FROM unnest(CAST(:tables AS text[])) AS tables(name)"
)


async def require_attached(database: Database) -> None:
    """Refuse a database in which changes of an audited class would leave two entries, or none.

    Raises:
        SettingError: a trigger is missing, or there is one beside the session's flush.
    """
    recorder = database.tables.recorder
    if recorder is None or database.config.is_sqlite:
        return
    classes = {name_of(table): rules for rules in recorder.rules.values() for table in rules.tables}
    asked = {"tables": list(classes), "trigger": f"{TRIGGER}_update"}
    with unreachable(database.config):
        async with database.engine.connect() as connection:
            found = (await connection.execute(_ATTACHED, asked)).all()
    for name, attached in found:
        rules = classes[name]
        if rules.by_trigger and not attached:
            cure = f"run: ledgerq audit attach {name}"
            raise SettingError(rules.name, f"table {name} lacks the trigger that audits it", cure)
        if attached and not rules.by_trigger:
            raise SettingError(
                rules.name,
                f"a trigger audits table {name}, and App(audited=) lets the session do so too",
                f"say Audited({rules.name}, by_trigger=True), or run: ledgerq audit detach {name}",
            )


def name_of(table: Table) -> str:
    """The table's name as `to_regclass` reads it."""
    own = quoted(table.name)
    return f"{quoted(table.schema)}.{own}" if table.schema else own
