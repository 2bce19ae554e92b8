"""PostgreSQL writes the entries of a table itself: triggers for each statement, whatever way it comes by.

The statements can be run again: they replace what an earlier version attached. The entries are those that the
session's flush writes (see ledgerq.store.audited), under the names of columns, not of attributes.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import text

from ledgerq.columns import in_schema_of
from ledgerq.store.entities import HASH, MAX_KEY, MAX_VALUE

SETTING = "ledgerq.origin"  # of a transaction: whose doing its changes are
SET_ORIGIN = text(f"SELECT set_config('{SETTING}', :origin, true)")
TRIGGER = "ledgerq_audit"  # … _insert, _update, _delete, _truncate
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

    def attach(self) -> list[str]:
        """The statements, in their order."""
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
            *(_in_schema(statement) for statement in _FUNCTIONS),
            *(
                _in_schema(
                    f"CREATE OR REPLACE TRIGGER {TRIGGER}_{verb} {when.format(table=self._quoted)} "
                    f"FOR EACH STATEMENT EXECUTE FUNCTION {{schema}}.audit_write_rows({arguments})"
                )
                for verb, when in _FIRES.items()
            ),
        ]

    def detach(self) -> list[str]:
        """The statements that take the triggers away; the functions stay, and the entries."""
        return [f"DROP TRIGGER IF EXISTS {TRIGGER}_{verb} ON {self._quoted}" for verb in _FIRES]

    @property
    def _quoted(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.name)}"


def quoted(name: str) -> str:
    """A name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def _in_schema(statement: str) -> str:
    """The statement for the schema that the audit log and our functions stand in."""
    return in_schema_of("audit_log", statement)


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _array(names: Collection[str]) -> str:
    """The names as the text of an array."""
    inner = (name.replace("\\", "\\\\").replace('"', '\\"') for name in names)
    return "{" + ",".join(f'"{name}"' for name in inner) + "}"


_KEY = f"""
CREATE OR REPLACE FUNCTION {{schema}}.audit_key(held jsonb, columns text[]) RETURNS text
LANGUAGE sql IMMUTABLE AS $body$
    SELECT CASE WHEN length(whole) <= {MAX_KEY} THEN whole ELSE left(whole, {MAX_KEY - 1 - HASH}) || '…'
        || left(encode(sha256(convert_to(whole, 'UTF8')), 'hex'), {HASH}) END
    FROM (
        SELECT CASE WHEN array_length(columns, 1) = 1 THEN coalesce(held ->> columns[1], '') ELSE string_agg(
            coalesce(replace(replace(held ->> part, '\\', '\\\\'), ',', '\\,'), '\\N'), ',' ORDER BY place) END AS whole
        FROM unnest(columns) WITH ORDINALITY AS parts(part, place)
    ) AS texts
$body$
"""

# What a row holds that it does not hold in its other version, or, if there is none, what says something.
_VALUES = f"""
CREATE OR REPLACE FUNCTION {{schema}}.audit_values(held jsonb, other jsonb, masked text[]) RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $body$
    SELECT coalesce(jsonb_object_agg(field, CASE
        WHEN value = 'null' THEN value
        WHEN field = ANY (masked) THEN to_jsonb('***'::text)
        WHEN length(value #>> '{{}}') <= {MAX_VALUE} THEN value
        ELSE to_jsonb(left(value #>> '{{}}', {MAX_VALUE} - length(note)) || note) END), '{{}}')
    FROM jsonb_each(held) AS fields(field, value), LATERAL (
        SELECT '… (' || ltrim(to_char(length(value #>> '{{}}'), '999,999,999,999')) || ' characters)' AS note
    ) AS notes
    WHERE CASE WHEN other IS NULL THEN value <> 'null' ELSE value IS DISTINCT FROM other -> field END
$body$
"""

_COLUMNS = "entity_type, entity_id, action, actor, before, after, job_id, kind, attempt, trace_id"
_WRITE = f"""
    INSERT INTO {{schema}}.audit_log ({_COLUMNS})
    SELECT TG_ARGV[0], key, action, coalesce(origin ->> 'actor', left('database:' || session_user, 200)), before, after,
        origin ->> 'job_id', origin ->> 'kind', (origin ->> 'attempt')::integer, origin ->> 'trace_id'
"""

# It runs as its owner: who may change the table need not be allowed to write the log. Nobody else may execute it, that
# is, make triggers with it: entries of tables that are not there could be made up.
_WRITE_ROWS = f"""
CREATE OR REPLACE FUNCTION {{schema}}.audit_write_rows() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $body$
DECLARE
    origin jsonb := nullif(current_setting('{SETTING}', true), '');
    keys text[] := TG_ARGV[1];
    masked text[] := TG_ARGV[2];
    excluded text[] := TG_ARGV[3];
BEGIN
    IF TG_OP = 'INSERT' THEN
        {_WRITE} FROM (
            SELECT {{schema}}.audit_key(to_jsonb(r), keys) AS key, 'create' AS action, '{{}}'::jsonb AS before,
                {{schema}}.audit_values(to_jsonb(r) - excluded, NULL, masked) AS after FROM new_rows AS r
        ) AS entries;
    ELSIF TG_OP = 'DELETE' THEN
        {_WRITE} FROM (
            SELECT {{schema}}.audit_key(to_jsonb(r), keys) AS key, 'delete' AS action, '{{}}'::jsonb AS after,
                {{schema}}.audit_values(to_jsonb(r) - excluded, NULL, masked) AS before FROM old_rows AS r
        ) AS entries;
    ELSIF TG_OP = 'UPDATE' THEN
        {_WRITE} FROM (
            SELECT coalesce(o.key, n.key) AS key,
                CASE WHEN n.key IS NULL THEN 'delete' WHEN o.key IS NULL THEN 'create' ELSE 'update' END AS action,
                {{schema}}.audit_values(o.held, n.held, masked) AS before,
                {{schema}}.audit_values(n.held, o.held, masked) AS after
            FROM (SELECT {{schema}}.audit_key(to_jsonb(r), keys) AS key, to_jsonb(r) - excluded AS held FROM old_rows AS r) AS o
            FULL JOIN
                (SELECT {{schema}}.audit_key(to_jsonb(r), keys) AS key, to_jsonb(r) - excluded AS held FROM new_rows AS r) AS n
            ON o.key = n.key
        ) AS entries
        WHERE before <> '{{}}' OR after <> '{{}}'
        ORDER BY action <> 'delete';
    ELSE
        RAISE EXCEPTION '% is audited, and TRUNCATE leaves no entries: DELETE its rows, or detach it first with '
            'ledgerq audit detach %', TG_TABLE_NAME, TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NULL;
END $body$
"""
_FUNCTIONS = (
    _KEY,
    _VALUES,
    _WRITE_ROWS,
    "REVOKE ALL ON FUNCTION {schema}.audit_write_rows() FROM PUBLIC",
)
