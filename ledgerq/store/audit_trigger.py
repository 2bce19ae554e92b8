"""Triggers that let PostgreSQL write a table's audit entries, for each statement from any client.

The statements may be run twice: they replace what an earlier version attached. The entries are like those of the
session's flush (see ledgerq.store.audited), but with the names of columns instead of attributes.
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

SETTING = "ledgerq.origin"  # a transaction's setting: the origin of its changes, as JSON
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
    """The value of the setting `ledgerq.origin`; '' if the origin is None."""
    if origin is None:
        return ""
    return json.dumps({name: value for name, value in asdict(origin).items() if value is not None})


@dataclass(frozen=True, slots=True)
class AuditedTable:
    """A table to which triggers are attached. All names are those in the database."""

    schema: str
    name: str
    entity_type: str
    keys: Sequence[str]
    masked: Collection[str] = ()
    excluded: Collection[str] = ()

    def attach(self, schema: str = SCHEMA) -> list[str]:
        """The statements that attach the triggers, in order; `schema` is that of ledgerq's tables."""
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
        return f"{quoted(self.schema)}.{quoted(self.name)}"


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


_ATTACHED = text(
    "SELECT name, EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass(name) AND tgname = :trigger) AS attached "
    "FROM unnest(CAST(:tables AS text[])) AS tables(name)"
)


async def require_attached(database: Database) -> None:
    """Refuse a database in which a change of an audited class would leave two entries, or none.

    Raises:
        SettingError: a class is audited by trigger and its table has none, or by the flush and its table has a trigger.
        Unreachable: the database does not answer.
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
