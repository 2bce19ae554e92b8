"""What a statement may leave behind in its transaction or session, judged by its text alone.

A text can't tell what a function of the database does. So a call of a function that is not known to leave nothing
counts as leaving something: that costs a job its place in a shared transaction, never its promise.
"""

import re
from enum import IntEnum
from functools import lru_cache


class Leaves(IntEnum):
    """What a statement leaves, the worst last."""

    NOTHING = 0
    IN_TRANSACTION = 1  # SET LOCAL, a lock by name, a cursor: until the transaction ends
    IN_SESSION = (
        2  # SET, an advisory lock of the session, LISTEN, a temporary table: until it is closed
    )
    ENDS = 3  # it begins or ends a transaction


# strings, names in quotes, dollar quotes, comments: nothing in them is a keyword
_QUOTED = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\$(\w*)\$.*?\$\1\$|--[^\n]*|/\*.*?\*/""", re.DOTALL
)
_READS_AND_WRITES = {
    *("select", "insert", "update", "delete", "with", "merge", "values"),
    *("savepoint", "release", "rollback"),
}
_UNTIL_THE_END = {
    *("lock", "declare", "fetch", "move", "close", "do", "call", "copy", "truncate", "notify"),
    *("alter", "drop", "create", "comment", "analyze", "refresh", "explain", "grant", "revoke"),
}
_OF_SESSION = re.compile(r"\bpg_(?:try_)?advisory_lock|\bset_config\b|\bdblink_connect")
_OF_TRANSACTION = re.compile(
    r"\bset_config\s*\([^()]*,\s*true\s*\)|\bpg_(?:try_)?advisory_xact_lock"
)
_CALLS = re.compile(r"([a-z_][a-z0-9_.]*)\(")
_HARMLESS = set(
    """
    abs age all any array array_agg array_append array_length array_position array_remove avg bool_and bool_or
    btrim cast ceil char_length clock_timestamp coalesce concat concat_ws count cume_dist date_part date_trunc decode
    dense_rank encode exists extract first_value floor format gen_random_bytes gen_random_uuid generate_series greatest
    group_concat hashtext hashtextextended ifnull in initcap json_agg json_array_length json_build_array json_build_object
    json_each json_extract json_group_array json_object_agg jsonb_agg jsonb_array_elements jsonb_array_elements_text
    jsonb_array_length jsonb_build_array jsonb_build_object jsonb_each jsonb_extract_path jsonb_object_agg jsonb_set
    jsonb_typeof julianday lag last_value lead least left length lower lpad ltrim make_interval max md5 min mod nextval
    now ntile nullif numeric octet_length over overlay percentile_cont position power random rank regexp_replace repeat
    replace reverse right round row row_number rpad rtrim sha256 sign some split_part sqrt statement_timestamp strftime
    string_agg strpos substr substring sum to_char to_date to_json to_jsonb to_number to_timestamp
    transaction_timestamp translate trim trunc unnest upper uuid_generate_v4 values varchar
    """.split()  # noqa: SIM905 - a list of so many is read as text
)


@lru_cache(maxsize=4096)
def leaves_behind(sql: str) -> Leaves:
    """The worst that the statements of the text may leave. Texts come again: each is looked at once."""
    bare = _QUOTED.sub(" ", sql).lower()
    return max((_of_one(each) for each in bare.split(";") if each.strip()), default=Leaves.NOTHING)


def _of_one(statement: str) -> Leaves:
    first, *others = statement.lstrip("( \t\r\n").split(maxsplit=3) or [""]
    if _ends_transaction(first, others):
        return Leaves.ENDS
    if first == "set":
        local = others[:1] in (["local"], ["constraints"], ["transaction"])
        return Leaves.IN_TRANSACTION if local else Leaves.IN_SESSION
    if first == "create" and {"temp", "temporary"} & set(others):
        return Leaves.IN_SESSION
    if first in _UNTIL_THE_END:
        return Leaves.IN_TRANSACTION
    return _of_calls(statement) if first in _READS_AND_WRITES else Leaves.IN_SESSION


def _ends_transaction(first: str, others: list[str]) -> bool:
    if first in {"begin", "commit", "end", "abort"}:
        return True
    if first == "rollback":
        return "to" not in others[:2]
    return first in {"start", "prepare"} and others[:1] == ["transaction"]


def _of_calls(statement: str) -> Leaves:
    if _OF_SESSION.search(_OF_TRANSACTION.sub(" ", statement)):
        return Leaves.IN_SESSION
    if _OF_TRANSACTION.search(statement):
        return Leaves.IN_TRANSACTION
    known = all(name.removeprefix("pg_catalog.") in _HARMLESS for name in _CALLS.findall(statement))
    return Leaves.NOTHING if known else Leaves.IN_TRANSACTION
