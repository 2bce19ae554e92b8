"""Checks that the triggers in a database are those that the audited classes need: see ledgerq.store.audit_trigger."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text

from ledgerq.database.engine import Database, unreachable
from ledgerq.errors import SettingError
from ledgerq.store.audit_rules import TableRules, rules_by_table
from ledgerq.store.audit_trigger import (
    TRIGGERS,
    VERSION_MARK,
    functions_version,
    listed_in,
    name_of,
)

_ATTACHED = text(
    "SELECT asked.name, tgname::text AS trigger, tgenabled::text IN ('O', 'A') AS fires, tgargs AS arguments, "
    "CAST(coalesce(substring(prosrc FROM :mark), '1') AS int) AS version, "
    "ARRAY(SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(asked.name) AND attnum > 0 "
    "AND NOT attisdropped)::text[] AS columns, "
    "ARRAY(SELECT attname FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey::int2[]) "
    "WHERE indrelid = to_regclass(asked.name) AND indisprimary)::text[] AS keys "
    "FROM unnest(CAST(:tables AS text[])) AS asked(name) "
    "LEFT JOIN (pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid) "
    "ON tgrelid = to_regclass(asked.name) AND tgname = ANY (CAST(:triggers AS text[]))"
)


@dataclass(slots=True)
class _Found:
    """What the database has for one table: its columns, its key, and triggers by name."""

    columns: set[str]
    keys: set[str]
    triggers: dict[str, Any] = field(default_factory=dict)


async def require_attached(database: Database) -> None:
    """Refuse a database in which a change of an audited class would leave two entries, none, or one that shows too much.

    Raises:
        SettingError: a class is audited by trigger and its table's triggers are missing, disabled, or not attached as
            the class is audited now; or it is audited by the flush and its table has a trigger.
        Unreachable: the database does not answer.
    """
    recorder = database.tables.recorder
    if recorder is None or database.config.is_sqlite:
        return
    wanted = {
        name_of(each.table): each for each in rules_by_table(recorder.rules.values()).values()
    }
    for name, found in (await _look(database, wanted)).items():
        rules = wanted[name]
        if rules.by_trigger and (fault := _fault(rules, found)):
            cure = f"run: ledgerq audit attach {name}{_options(rules, found)}"
            raise SettingError(rules.name, f"table {name} {fault}", cure)
        if found.triggers and not rules.by_trigger:
            raise SettingError(
                rules.name,
                f"a trigger audits table {name}, and App(audited=) lets the session do so too",
                f"say Audited({rules.name}, by_trigger=True), or run: ledgerq audit detach {name}",
            )


async def _look(database: Database, tables: Collection[str]) -> dict[str, _Found]:
    asked = {
        "tables": list(tables),
        "triggers": list(TRIGGERS),
        "mark": rf"{VERSION_MARK} (\d+)",
    }
    with unreachable(database.config):
        async with database.engine.connect() as connection:
            rows = (await connection.execute(_ATTACHED, asked)).all()
    found = dict[str, _Found]()
    for row in rows:
        table = found.setdefault(row.name, _Found(set(row.columns), set(row.keys)))
        if row.trigger:
            table.triggers[row.trigger] = row
    return found


def _fault(rules: TableRules, found: _Found) -> str | None:
    """What is wrong with the table's triggers, after its name in a sentence; None if they are as the rules want."""
    for name in TRIGGERS:
        trigger = found.triggers.get(name)
        if trigger is None:
            return f"lacks the trigger {name}, which audits it"
        if not trigger.fires:
            return f"has the trigger {name}, which audits it, disabled"
        if trigger.version < functions_version():
            return f"has triggers of an older ledgerq (version {trigger.version})"
        if differs := _difference(rules, found, trigger):
            return f"has the trigger {name} of an earlier state: {differs}"
    return None


def _difference(rules: TableRules, found: _Found, trigger: Any) -> str | None:
    entity_type, keys, masked, excluded = _arguments(trigger)
    if entity_type != rules.entity_type:
        return f"its entries are those of {entity_type}, not of {rules.entity_type}"
    if keys != found.keys:
        return f"its key is {_listed(keys)}, the table's {_listed(found.keys)}"
    if gone := (masked | excluded) - found.columns:
        return f"it hides {_listed(gone)}, which the table does not have"
    if bare := (rules.masked - masked - excluded) | (rules.excluded - excluded):
        return f"it does not hide {_listed(bare)}"
    return None


def _options(rules: TableRules, found: _Found) -> str:
    """The options of `attach` that keep hidden what only these options hide so far; no column of the key can be hidden."""
    masked, excluded = set[str](), set[str]()
    for trigger in found.triggers.values():
        _, _, more_masked, more_excluded = _arguments(trigger)
        masked, excluded = masked | more_masked, excluded | more_excluded
    return "".join(
        f" {option} {name}"
        for option, names in (
            ("--mask", masked - rules.masked),
            ("--exclude", excluded - rules.excluded),
        )
        for name in sorted((names & found.columns) - found.keys)
    )


def _arguments(trigger: Any) -> tuple[str, set[str], set[str], set[str]]:
    entity_type, *arrays = bytes(trigger.arguments).decode().split("\0")[:4]
    keys, masked, excluded = map(listed_in, arrays)
    return entity_type, keys, masked, excluded


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none"
