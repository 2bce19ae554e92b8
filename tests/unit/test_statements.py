"""What a statement may leave behind, by its text: PostgreSQL's tokens, calls, and what ends a transaction."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerq.database.statements import Leaves, leaves_behind

ENDS = [
    "COMMIT",
    "/* /* a */ */ COMMIT",
    "/* a /*/ b */ */COMMIT",
    r"SELECT E'\''; COMMIT; --'",
    "SELECT e'a'\n  '\\''; COMMIT; --'",
    "SELECT E'a' -- more\n '\\''; COMMIT; --'",
    "SELECT x$$; COMMIT; SELECT y$$",
    "SELECT x$a$; COMMIT; SELECT y$a$",
    "SELECT é$$; COMMIT; SELECT y$$",
    "SELECT $1$$a$$; COMMIT; SELECT '$$'",
    "SELECT U&'\\'; COMMIT; --'",
    'SELECT U&"\\"; COMMIT; --"',
    "SELECT N'a\\'; COMMIT; --'",
    "SELECT 'a''\\'; COMMIT; --'",
    "SELECT 1 -- a\rCOMMIT; COMMIT",
    "SELECT 1 --a\r; COMMIT",
    "SELECT 1 $a 'x'; END",
    "SELECT $a$ $b$ $a$; ABORT",
    "SELECT 1; ROLLBACK WORK",
    "; ;COMMIT PREPARED 'a'",
    "START/**/TRANSACTION",
    "PREPARE TRANSACTION 'x'",
    "ROLLBACK AND CHAIN",
    "SELECT 1 */* a */; BEGIN",
    "EXPLAIN ANALYZE SELECT 1; COMMIT",
]
IN_SESSION = [
    "SET a = 1",
    "LISTEN a",
    "RESET ALL",
    "EXECUTE a",
    "WHATEVER",
    "SELECT 1 INTO TEMP a",
    "SELECT 1 INTO LOCAL TEMPORARY TABLE a",
    "SELECT t.insert INTO TEMP a FROM t",
    "SELECT 1 INTO pg_temp.a",
    "CREATE OR REPLACE TEMP VIEW a AS SELECT 1",
    "CREATE/* a */LOCAL TEMPORARY TABLE a (b int)",
    "CREATE GLOBAL TEMP TABLE a ()",
    "CREATE TABLE pg_temp.a (b int)",
    'CREATE TABLE "pg_temp".a (b int)',
    "CREATE FUNCTION pg_temp_3.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "DECLARE a CURSOR WITH HOLD FOR SELECT 1",
    "DECLARE a CURSOR WITH /* b */ HOLD FOR SELECT 1",
    "SELECT pg_advisory_lock(1)",
    'SELECT "pg_advisory_lock" (1)',
    'SELECT pg_catalog."pg_try_advisory_lock_shared"/* a */(1)',
    'SELECT U&"pg\\005fadvisory_lock"(1)',
    "EXPLAIN ANALYZE SELECT pg_advisory_lock(1)",
    "SELECT DISTINCT ON (a) set_config('b', 'c', false)",
    "SELECT \"set_config\" ('b', 'c', false)",
    "SELECT set_config('b', 'c, true)', false)",
    "SELECT set_config('b', E'\\', true)', false)",
    "SELECT set_config($1, $2, $3)",
]
IN_TRANSACTION = [
    "ROLLBACK TO a",
    "ROLLBACK TRANSACTION TO SAVEPOINT a",
    "SET LOCAL a = 1",
    "LOCK TABLE a",
    "DECLARE a CURSOR FOR SELECT 1",
    "DECLARE a CURSOR WITHOUT HOLD FOR SELECT 1",
    "CREATE TABLE a (b int)",
    "SELECT 1 INTO a",
    "SELECT be(1)",
    "SELECT be (1)",
    "SELECT be/* a /* b */ */(1)",
    "SELECT be -- a\n (1)",
    'SELECT "be"(1)',
    'SELECT "LOWER"(a)',
    'SELECT "a""lower"(b)',
    'SELECT "in"(b)',
    "SELECT public.lower(a)",
    "SELECT public . /* a */ lower(a)",
    'SELECT "public"."lower"(a)',
    "SELECT set_config('b', 'c', true)",
    "SELECT set_config($1, $2, TRUE )",
    "SELECT 1 AS a, be(2)",
]
NOTHING = [
    "",
    "-- a",
    "SAVEPOINT a",
    "ROLLBACK TO SAVEPOINT sa_savepoint_1",
    "RELEASE a",
    "(SELECT 1)",
    "SELECT current_setting('a', true), now(), pg_catalog.lower (a), count(*) FILTER (WHERE b)",
    "SELECT 'COMMIT; be(1)', $$; COMMIT$$, $a$ $$; COMMIT; $a$, E'\\'; COMMIT; ', \"; COMMIT\"",
    "SELECT U&'; COMMIT' /* ; COMMIT /* */ ; COMMIT */ -- ; COMMIT",
    "SELECT a FROM b WHERE c IN ($1::INTEGER, $2::VARCHAR(20)) AND (d) OR NOT (e) AND f = ANY (g)",
    "INSERT INTO a.b (c, d) VALUES ($1, $2) ON CONFLICT (c) DO UPDATE SET (c) = (1) RETURNING (c)",
    'INSERT INTO "order" ("a") SELECT b FROM c JOIN d USING (e) UNION ALL (SELECT 1)',
    "WITH a (b) AS (SELECT 1) SELECT * FROM a JOIN (VALUES (1)) AS v(c) ON (v.c = a.b) LIMIT (1)",
    "WITH RECURSIVE a(b) AS MATERIALIZED (SELECT 1) SELECT CASE WHEN (b) THEN (1) ELSE (2) END FROM a",
    "SELECT CAST(a AS varchar(20)), CAST(b AS NUMERIC(10, 2)), c::timestamp(3), d::pg_catalog.int4",
    "SELECT sum(a) OVER (PARTITION BY (b) ORDER BY (c)) FROM d GROUP BY (e) HAVING (f)",
    "DELETE FROM a WHERE EXISTS (SELECT 1) RETURNING a.temp, a.hold",
    "UPDATE a SET b = hold FROM unnest($1::text[]) AS c(d) WHERE e IS DISTINCT FROM (d)",
]


@pytest.mark.parametrize(
    ("verdict", "sql"),
    [
        *((Leaves.ENDS, sql) for sql in ENDS),
        *((Leaves.IN_SESSION, sql) for sql in IN_SESSION),
        *((Leaves.IN_TRANSACTION, sql) for sql in IN_TRANSACTION),
        *((Leaves.NOTHING, sql) for sql in NOTHING),
    ],
)
def test_a_text_is_read_as_postgresql_reads_it(verdict: Leaves, sql: str) -> None:
    """Short, and so long that its verdict is not remembered."""
    assert leaves_behind(sql) is verdict
    assert leaves_behind(sql + " " * 10_001) is verdict


PLAIN = st.text(alphabet="a;'\"$\\-/* \n(cOMMIT)é1", max_size=12)
LITERALS = st.one_of(
    PLAIN.map(lambda t: "'" + t.replace("'", "''") + "'"),
    PLAIN.map(lambda t: "E'" + t.replace("\\", "\\\\").replace("'", "\\'") + "'"),
    PLAIN.map(lambda t: "e'" + t.replace("\\", "\\\\").replace("'", "''") + "'"),
    PLAIN.map(lambda t: "U&'" + t.replace("'", "''") + "'"),
    PLAIN.map(lambda t: '"' + t.replace('"', '""') + '"'),
    PLAIN.map(lambda t: "$q$" + t.replace("$", "") + "$q$"),
    PLAIN.map(lambda t: "$$" + t.replace("$", "") + "$$"),
)
COMMENTS = st.recursive(
    st.just(" x "), lambda inner: inner.map(lambda t: f"/*{t}*/"), max_leaves=4
).map(lambda t: f"/*{t}*/") | PLAIN.map(lambda t: "--" + t.replace("\n", "") + "\n")
# with a comma between: `E'' --` and a text on the next line would be one text
PIECES = st.lists(
    LITERALS | COMMENTS | st.sampled_from(["x$$", "y$a$b", "1.5", "(a)", ", ", "$1", "::text"]),
    max_size=6,
).map(lambda pieces: " " + ", ".join(pieces) + " ")


@given(before=PIECES, after=PIECES)
def test_what_ends_a_transaction_is_found_among_anything(before: str, after: str) -> None:
    """Whatever literals, comments and names stand around it."""
    assert leaves_behind(f"SELECT 1{before}; COMMIT;{after}") is Leaves.ENDS


@given(
    before=PIECES,
    after=PIECES,
    kind=st.sampled_from(["'%'", "E'%\\\\'", '"%"', "$z$%$z$", "/*%*/"]),
)
def test_what_stands_in_a_literal_ends_nothing(before: str, after: str, kind: str) -> None:
    """Whatever stands around the literal."""
    hidden = kind.replace("%", "; COMMIT; ")
    assert leaves_behind(f"SELECT 1{before}{hidden}{after}") is not Leaves.ENDS
