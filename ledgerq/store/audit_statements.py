"""Looks at a session's statements on audited tables, except those whose entries a trigger writes.

Refuses statements that bypass the flush: they would leave no entry. Of the flush's own, sees that a DELETE finds all its
rows: the entry of a row that another transaction has deleted would be untrue.
"""

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary, ref

from sqlalchemy import (
    ARRAY,
    Alias,
    Connection,
    Engine,
    ExceptionContext,
    Result,
    UpdateBase,
    delete,
    event,
)
from sqlalchemy.orm import FromStatement, ORMExecuteState, Session

from ledgerq.database.session import SyncSession
from ledgerq.errors import NotAudited, SerializationFailure
from ledgerq.store.audit_rules import Rules, TableRules, rules_by_table
from ledgerq.store.audit_trigger import WITHOUT_ORIGIN
from ledgerq.store.row_keys import among

BY_HAND = "ledgerq_audited_by_hand"  # execution option: the caller records a statement's entries
_OF_A_MAPPER = "compiled_cache"  # option of the statements by which a flush writes rows of a class
_ROWS = "ledgerq_rows"  # option of a DELETE that stands for several: how many rows it is to find


class StatementGuard:
    """Looks at each statement of the sessions of one class, like `update(Order)`, before it runs."""

    def __init__(self, rules: Mapping[type[Any], Rules], session_class: type[SyncSession]) -> None:
        self._rules = rules
        self._tables: dict[Any, TableRules | Rules | None] = {**rules_by_table(rules.values())}
        self._may_be_gone = {
            table
            for each in rules.values()
            if not each.mapper.base_mapper.confirm_deleted_rows
            for table in each.tables
        }
        self._sessions: WeakKeyDictionary[Connection, ref[Session]] = WeakKeyDictionary()
        event.listen(session_class, "after_begin", self._begun)
        event.listen(session_class, "do_orm_execute", self._before_statement)

    def require_seen(self, session: Session, table: object, statement: str) -> None:
        """Refuse a statement that bypasses the session's flush, if it changes an audited table without a trigger.

        Raises:
            NotAudited: the statement would leave no entry, or one without an author that must be named.
        """
        rules = self._on(table)
        if rules and not by_trigger(session, rules):
            raise NotAudited.past_the_session(rules.name, statement)
        if rules and acts_nobody(session):
            raise NotAudited.without_origin(rules.entity_type)

    def _on(self, table: Any) -> TableRules | Rules | None:
        """The rules of a table, or of what stands for one, like an alias; None if it is not audited."""
        while isinstance(table, Alias):
            table = table.element
        try:
            return self._tables[table]
        except KeyError:
            found = next((each for each in self._rules.values() if table in each.tables), None)
            self._tables[table] = found
            return found

    def _before_statement(self, state: ORMExecuteState) -> Result[Any] | None:
        if not (state.is_insert or state.is_update or state.is_delete):
            return None
        statement: Any = state.statement
        if isinstance(statement, FromStatement):
            statement = statement.element
        if state.execution_options.get(BY_HAND):
            return _by_hand(state)
        if isinstance(statement, UpdateBase):
            self._require_dml_seen(state.session, statement)
        return None

    def listen(self, engine: Engine) -> None:
        """Refuse a session's statements on this engine that change an audited table without an audit entry.

        An INSERT, UPDATE or DELETE past the ORM or inside of WITH raises `NotAudited`, unless flush or trigger audits it. A
        flush's DELETE that does not find all its rows raises `SerializationFailure`.
        """
        event.listen(engine, "before_cursor_execute", self._before_cursor)
        event.listen(engine, "do_executemany", self._delete_at_once)
        event.listen(engine, "after_cursor_execute", self._after_cursor)
        event.listen(engine, "handle_error", _refused_by_trigger)

    def _begun(self, session: Session, _: object, connection: Connection) -> None:
        self._sessions[connection] = ref(session)

    def _session_of(self, connection: Connection) -> Session | None:
        held = self._sessions.get(connection)
        return held() if held else None

    def _before_cursor(self, connection: Connection, *given: Any) -> None:
        context: Any = given[3]
        within = getattr(context.compiled, "ctes", None)
        if not (within or context.isinsert or context.isupdate or context.isdelete):
            return
        session: Any = self._session_of(connection)
        if session is None or session.by_hand or _is_of_a_flush(session, context):
            return
        if not context.execution_options.get(BY_HAND):
            for each in (context.compiled.statement, *(cte.element for cte in within or ())):
                if isinstance(each, UpdateBase):
                    self._require_dml_seen(session, each)

    def _delete_at_once(self, *given: Any) -> bool:
        """Send one DELETE for many rows: that of a driver's executemany does not tell how many rows it found."""
        context = given[3]
        if context.dialect.supports_sane_multi_rowcount:
            return False
        deleting = self._flushed_delete(context.root_connection, context)
        if deleting is None:
            return False
        parts = [(each.left, each.right.key) for each in deleting.whereclause.clauses]
        columns = [column for column, _ in parts]
        if any(isinstance(getattr(c.type, "impl_instance", c.type), ARRAY) for c in columns):
            return False  # no array holds them
        keys = [tuple(row[name] for _, name in parts) for row in context.compiled_parameters]
        values = keys if len(columns) > 1 else [key for (key,) in keys]
        context.root_connection.execute(
            delete(deleting.table).where(among(columns, values, in_arrays=True)),
            execution_options={
                _OF_A_MAPPER: context.execution_options[_OF_A_MAPPER],
                _ROWS: len(keys),
            },
        )
        return True

    def _after_cursor(self, connection: Connection, cursor: Any, *given: Any) -> None:
        context: Any = given[2]
        if not context.isdelete or self._flushed_delete(connection, context) is None:
            return
        expected = context.execution_options.get(_ROWS, len(context.compiled_parameters))
        if -1 < cursor.rowcount < expected:
            error = SerializationFailure()
            error.add_note(
                f"{expected - cursor.rowcount} of {expected} rows that the session deletes from "
                f"{context.compiled.statement.table} are gone. If a cascade of the database may delete them first, map "
                "the class with confirm_deleted_rows=False"
            )
            raise error

    def _flushed_delete(self, connection: Connection, context: Any) -> Any:
        """The DELETE by which a flush deletes rows, and writes their entries; None if the statement is another."""
        session = self._session_of(connection)
        if not context.isdelete or session is None or not _is_of_a_flush(session, context):
            return None
        deleting = context.compiled.statement
        rules = self._on(deleting.table)
        is_ours = rules and not by_trigger(session, rules)
        return deleting if is_ours and deleting.table not in self._may_be_gone else None

    def _require_dml_seen(self, session: Session, statement: UpdateBase) -> None:
        if rules := self._on(statement.table):
            name = statement.entity_description.get("name") or rules.name
            self.require_seen(session, statement.table, f"{_verb(statement)}({name})")


def _refused_by_trigger(context: ExceptionContext) -> None:
    """Raise ledgerq's error in place of a trigger's.

    Raises:
        NotAudited: a trigger found that nobody acts, where somebody must.
    """
    error = context.original_exception
    if getattr(error, "sqlstate", None) == WITHOUT_ORIGIN:
        table = getattr(error.__cause__, "table_name", None)
        raise NotAudited.without_origin(str(table)) from error


def _is_of_a_flush(session: Any, context: Any) -> bool:
    """True for a statement by which a flush writes rows of a class; False for one that a listener sends meanwhile."""
    return session._flushing and bool(context.execution_options.get(_OF_A_MAPPER))  # noqa: SLF001 - nothing else tells


def _by_hand(state: ORMExecuteState) -> Result[Any]:
    """Run the statement. SQLAlchemy does not hand the option on to each statement that it makes of it."""
    session: Any = state.session
    session.by_hand = True
    try:
        return state.invoke_statement()
    finally:
        session.by_hand = False


def _verb(statement: UpdateBase) -> str:
    return "insert" if statement.is_insert else "update" if statement.is_update else "delete"


def by_trigger(session: Session, rules: Rules | TableRules) -> bool:
    """True if a trigger writes the entries. On SQLite, which has no such triggers, the flush writes them."""
    return rules.by_trigger and session.get_bind().dialect.name == "postgresql"


def acts_nobody(session: Any) -> bool:
    """True if no author is known, and a trigger may not write the role of the database in place of one."""
    return session.origin is None and session.must_name_author
