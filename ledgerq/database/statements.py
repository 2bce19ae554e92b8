"""Tells from a statement's text what it may leave behind in its transaction or session, for example a lock.

The text does not show what a function of the database does. So a call of an unknown function counts as leaving
something. If the guess is wrong, the job only loses its place in a shared transaction.
"""

import re
from collections.abc import Callable
from enum import IntEnum
from functools import lru_cache


class Leaves(IntEnum):
    """What a statement leaves behind, apart from the rows that it reads and writes, and for how long; the worst is the last."""

    NOTHING = 0
    IN_TRANSACTION = 1  # until the transaction ends: SET LOCAL, LOCK, a cursor
    IN_SESSION = 2  # until the session ends: SET, LISTEN, an advisory lock, a temporary table
    ENDS = 3  # the statement begins or ends a transaction


_READS_AND_WRITES = {
    *("select", "insert", "update", "delete", "with", "merge", "values"),
    *("savepoint", "release", "rollback"),
}
_UNTIL_THE_END = {
    *("lock", "declare", "fetch", "move", "close", "do", "call", "copy", "truncate", "notify"),
    *("alter", "drop", "create", "comment", "analyze", "refresh", "explain", "grant", "revoke"),
}
_FIRST_WORDS = 4  # the words of a statement that tell its kind
_UNREADABLE = 'U&"'  # stands for a quoted name with escapes, which may be any name
_OF_SESSION = re.compile(r'pg_(?:try_)?advisory_lock|set_config$|setseed$|dblink_connect|U&"')
_TEMPORARY = {"temp", "temporary", "local", "global"}
_WRITES_INTO = {"insert", "merge", "replace", "ignore"}  # … the last two on SQLite
# a table, an alias or a type follows
_NAMES_NO_FUNCTION = {"into", "as", "with", "recursive"}
_KEYWORDS = set(
    """
    all and any array as asc between both by case check collate conflict constraint cross cube default delete desc
    distinct do else end escape except exists filter for foreign from full group groups having ilike in inner insert
    intersect into is isnull join key lateral leading like limit matched materialized merge natural not nothing
    notnull offset on only or order outer over partition primary range recursive references returning rollup row rows
    select set sets similar some table then to trailing union unique update using values when where window with within
    zone
    """.split()  # noqa: SIM905 - as below
)
_HARMLESS = set(
    """
    abs acos age any_value array_agg array_append array_cat array_dims array_fill array_length array_lower array_ndims
    array_position array_positions array_prepend array_remove array_replace array_to_json array_to_string array_upper
    ascii asin atan atan2 avg bernoulli bigint bit bit_and bit_length bit_or bit_xor bool_and bool_or boolean bpchar
    btrim cardinality cast cbrt ceil changes char char_length character character_length chr clock_timestamp coalesce
    col_description concat concat_ws convert_from convert_to corr cos count covar_pop covar_samp cume_dist
    current_database current_schema current_schemas current_setting currval date date_add date_bin date_part
    date_subtract date_trunc daterange datetime decimal decode degrees dense_rank div encode every exp extract
    first_value float floor format gcd gen_random_bytes gen_random_uuid generate_series generate_subscripts get_byte
    greatest group_concat grouping has_schema_privilege has_table_privilege hashtext hashtextextended hex ifnull iif
    initcap instr int int4range int8range integer interval isempty isfinite json json_agg json_array
    json_array_elements json_array_elements_text json_array_length json_build_array json_build_object json_each
    json_each_text json_exists json_extract json_extract_path json_extract_path_text json_group_array json_object
    json_object_agg json_object_keys json_populate_record json_populate_recordset json_query json_set json_strip_nulls
    json_table json_to_record json_to_recordset json_tree json_type json_typeof json_valid json_value jsonb jsonb_agg
    jsonb_array_elements jsonb_array_elements_text jsonb_array_length jsonb_build_array jsonb_build_object jsonb_each
    jsonb_each_text jsonb_extract_path jsonb_extract_path_text jsonb_insert jsonb_object jsonb_object_agg
    jsonb_object_keys jsonb_path_exists jsonb_path_match jsonb_path_query jsonb_path_query_array
    jsonb_path_query_first jsonb_populate_record jsonb_populate_recordset jsonb_pretty jsonb_set jsonb_set_lax
    jsonb_strip_nulls jsonb_to_record jsonb_to_recordset jsonb_typeof julianday justify_days justify_hours
    justify_interval lag last_insert_rowid last_value lastval lcm lead least left length likely ln log log10 lower
    lower_inc lower_inf lpad ltrim make_date make_interval make_time make_timestamp make_timestamptz max md5 min mod
    mode nextval normalize now nth_value ntile nullif num_nonnulls num_nulls numeric numrange obj_description
    octet_length overlay parse_ident percent_rank percentile_cont percentile_disc pg_backend_pid pg_column_size
    pg_is_in_recovery pg_relation_size pg_size_pretty pg_table_size pg_total_relation_size pg_typeof phraseto_tsquery
    pi plainto_tsquery position power printf quote_ident quote_literal quote_nullable radians random range_agg
    range_merge rank real regexp_count regexp_instr regexp_like regexp_match regexp_matches regexp_replace
    regexp_split_to_array regexp_split_to_table regexp_substr regr_intercept regr_slope repeat replace reverse right
    round row_number row_to_json rpad rtrim scale setweight sha224 sha256 sha384 sha512 sign similarity sin smallint
    split_part sqrt starts_with statement_timestamp stddev stddev_pop stddev_samp strftime string_agg string_to_array
    string_to_table strpos substr substring sum system tan text time timeofday timestamp timestamptz timetz timezone
    to_ascii to_char to_date to_hex to_json to_jsonb to_number to_regclass to_timestamp to_tsquery to_tsvector total
    transaction_timestamp translate trim trim_array trunc ts_headline ts_rank ts_rank_cd tsrange tstzrange typeof
    unaccent unistr unixepoch unlikely unnest upper upper_inc upper_inf uuid uuid_extract_timestamp uuid_generate_v4
    uuidv4 uuidv7 var_pop var_samp varbit varchar variance version websearch_to_tsquery width_bucket word_similarity
    """.split()  # noqa: SIM905 - a list of so many is read as text
)
_READ_QUOTED = (_HARMLESS - _KEYWORDS) | {"pg_catalog"}

_BLANK = r"[ \t\n\r\f\v]"
_NAME = r"[A-Za-z_\x80-\U0010FFFF][A-Za-z_0-9$\x80-\U0010FFFF]*+"
_TAG = r"\$(?:[A-Za-z_\x80-\U0010FFFF][A-Za-z_0-9\x80-\U0010FFFF]*+)?+\$"
# tokens that tell nothing: operators, numbers, parameters, texts (a doubled quote begins the next one), casts
_OTHER = rf"""
    [^A-Za-z_\x80-\U0010FFFF"'$;.(/\-:0-9 \t\n\r\f\v]++ | [0-9]++(?:\.[0-9]++)?+ | '[^']*+(?:'|\Z)
    | \$[0-9]++ | \$(?!{_TAG[2:]}) | -(?!-) | /(?!\*) | ::{_BLANK}*+{_NAME}(?:\.{_NAME})*+(?!') | :
"""
# PostgreSQL's tokens. A token that is not closed runs to the end; PostgreSQL refuses such a text as a whole.
# No pattern reads a character more than a few times, so the time is linear in the length of the text.
_TOKEN = re.compile(
    rf"""
    (?P<escaped>[eE]'(?:[^'\\]++|\\(?:.|\Z)|''
        |'(?:[ \t\f\v]|--[^\n\r]*+)*+[\n\r](?:{_BLANK}|--[^\n\r]*+[\n\r])*+')*+(?:'|\Z))
    | (?P<unreadable>[uU]&"(?:[^"]++|"")*+(?:"|\Z)){_BLANK}*+
    | (?P<word>{_NAME}){_BLANK}*+
    | (?P<other>(?:{_OTHER})(?:{_OTHER}|[ \t\n\r\f\v(]++|--[^\n\r]*+)*+)
    | (?P<open>\()
    | (?P<quoted>"(?:[^"]++|"")*+(?:"|\Z)){_BLANK}*+
    | (?P<dot>\.)
    | (?P<end>;)
    | (?P<comment>/\*)
    | (?P<dollar>{_TAG})
    | (?P<blank>{_BLANK}++|--[^\n\r]*+)
    """,
    re.VERBOSE | re.DOTALL,
)
_READ = {"word", "quoted", "dollar"}  # tokens whose text is read
_COMMENT_EDGE = re.compile(r"/\*|\*/")
# set_config's arguments, if the last one is true: the setting then ends with the transaction
_LOCALLY = re.compile(
    r"""\((?:[^()'"\\/$-]|'[^'\\]*+'|\$[0-9]){0,500},\s*true\s*\)""", re.IGNORECASE
)
_KEPT_SHORT = 10_000  # characters; the verdict on a longer text is not cached


def leaves_behind(sql: str) -> Leaves:
    """The highest `Leaves` value of the statements in the text: how long their effects may last. Cached for short texts."""
    return _remembered(sql) if len(sql) <= _KEPT_SHORT else _Scan(sql).verdict()


@lru_cache(maxsize=4096)
def _remembered(sql: str) -> Leaves:
    return _Scan(sql).verdict()


class _Scan:
    """Reads a text once, token by token, and notes the worst that its statements may leave."""

    def __init__(self, sql: str) -> None:
        self._sql, self._at = sql, 0
        self._worst = Leaves.NOTHING
        self._begin_statement()
        self._on: dict[str | None, Callable[[str], None]] = {
            kind: getattr(self, f"_{kind}") for kind in _TOKEN.groupindex
        }

    def verdict(self) -> Leaves:
        sql, on, match = self._sql, self._on, _TOKEN.match
        while token := match(sql, self._at):
            self._at = token.end()
            kind = token.lastgroup
            on[kind](token[kind] if kind in _READ else "")
            if self._worst is Leaves.ENDS:
                return self._worst
        self._end("")
        return self._worst

    def _begin_statement(self) -> None:
        self._words: list[str] = []  # the first words of the statement
        self._other("")

    def _leaves(self, what: Leaves) -> None:
        self._worst = max(self._worst, what)

    def _other(self, _: str) -> None:
        self._schema = self._name = self._before = ""  # the name just read, and the word before it
        self._dotted = False

    _escaped = _other

    def _blank(self, _: str) -> None:
        pass

    def _word(self, text: str) -> None:
        word = text.lower() if text.isascii() else text
        if len(self._words) < _FIRST_WORDS:
            self._words.append(word)
        before = self._name
        self._named(word)
        if word.startswith("pg_temp"):
            self._leaves(Leaves.IN_SESSION)
        elif word == "into" and before not in _WRITES_INTO:
            self._leaves(Leaves.IN_TRANSACTION)  # SELECT INTO makes a table
        elif (before == "into" and word in _TEMPORARY) or (
            (before, word) == ("with", "hold") and self._words[0] == "declare"
        ):
            self._leaves(Leaves.IN_SESSION)

    def _quoted(self, text: str) -> None:
        name = text[1:-1]
        self._named(name if name in _READ_QUOTED or _OF_SESSION.match(name) else text)
        if name.startswith("pg_temp"):
            self._leaves(Leaves.IN_SESSION)

    def _unreadable(self, _: str) -> None:
        self._named(_UNREADABLE)

    def _named(self, name: str) -> None:
        if self._dotted:
            self._schema, self._dotted = self._name or "?", False
        else:
            self._schema, self._before = "", self._name
        self._name = name

    def _dot(self, _: str) -> None:
        self._dotted = True

    def _open(self, _: str) -> None:
        if self._name:
            self._leaves(self._of_call())
        self._other("")

    def _of_call(self) -> Leaves:
        name = self._name
        if _OF_SESSION.match(name):
            local = name == "set_config" and _LOCALLY.match(self._sql, self._at - 1)
            return Leaves.IN_TRANSACTION if local else Leaves.IN_SESSION
        if self._before in _NAMES_NO_FUNCTION or (name in _KEYWORDS and not self._schema):
            return Leaves.NOTHING
        known = name in _HARMLESS and self._schema in {"", "pg_catalog"}
        return Leaves.NOTHING if known else Leaves.IN_TRANSACTION

    def _comment(self, _: str) -> None:
        depth = 1
        while depth:
            edge = _COMMENT_EDGE.search(self._sql, self._at)
            if edge is None:
                self._at = len(self._sql)
                return
            depth += 1 if edge[0] == "/*" else -1
            self._at = edge.end()

    def _dollar(self, tag: str) -> None:
        end = self._sql.find(tag, self._at)
        self._at = end + len(tag) if end >= 0 else len(self._sql)
        self._other("")

    def _end(self, _: str) -> None:
        if self._words:
            self._leaves(_of_words(*self._words))
        self._begin_statement()


def _of_words(first: str, *others: str) -> Leaves:
    """What a statement leaves by its kind, without regard to the functions that it calls."""
    if _ends_transaction(first, others):
        return Leaves.ENDS
    if first == "set":
        local = others[:1] in {("local",), ("constraints",), ("transaction",)}
        return Leaves.IN_TRANSACTION if local else Leaves.IN_SESSION
    if first == "create":
        kind = next((each for each in others if each not in {"or", "replace"}), "")
        return Leaves.IN_SESSION if kind in _TEMPORARY else Leaves.IN_TRANSACTION
    undoes = first == "rollback" and not others[-1].startswith("sa_savepoint_")
    if undoes or first in _UNTIL_THE_END:  # SQLAlchemy tells the session of its own savepoints only
        return Leaves.IN_TRANSACTION
    return Leaves.NOTHING if first in _READS_AND_WRITES else Leaves.IN_SESSION


def _ends_transaction(first: str, others: tuple[str, ...]) -> bool:
    if first in {"begin", "commit", "end", "abort"}:
        return True
    if first == "rollback":
        return "to" not in others[:2]
    return first in {"start", "prepare"} and others[:1] == ("transaction",)
