"""Refuses a session's statements that change an audited table past the flush, unless a trigger writes their entries."""

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary, ref

from sqlalchemy import Alias, Connection, Engine, ExceptionContext, Result, UpdateBase, event
from sqlalchemy.orm import FromStatement, ORMExecuteState, Session

from ledgerq.database.session import SyncSession
from ledgerq.errors import NotAudited
from ledgerq.store.audit_rules import Rules, TableRules, rules_by_table
from ledgerq.store.audit_trigger import WITHOUT_ORIGIN

BY_HAND = "ledgerq_audited_by_hand"  # execution option: the caller records a statement's entries
_OF_A_MAPPER = (
    "compiled_cache"  # option of a flush's statements for the rows of a class, and of no others
)


class StatementGuard:
    """Looks at each statement of the sessions of one class, like `update(Order)`, before it runs."""

    def __init__(self, rules: Mapping[type[Any], Rules], session_class: type[SyncSession]) -> None:
        self._rules = rules
        self._tables: dict[Any, TableRules | Rules | None] = {**rules_by_table(rules.values())}
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

        An INSERT, UPDATE or DELETE past the ORM or inside of WITH raises `NotAudited`, unless flush or trigger audits it.
        """
        event.listen(engine, "before_cursor_execute", self._before_cursor)
        event.listen(engine, "handle_error", _refused_by_trigger)

    def _begun(self, session: Session, _: object, connection: Connection) -> None:
        self._sessions[connection] = ref(session)

    def _before_cursor(self, connection: Connection, *given: Any) -> None:
        context: Any = given[3]
        within = getattr(context.compiled, "ctes", None)
        if not (within or context.isinsert or context.isupdate or context.isdelete):
            return
        held = self._sessions.get(connection)
        session: Any = held() if held else None
        if session is None or session.by_hand:
            return
        if session._flushing and context.execution_options.get(_OF_A_MAPPER):  # noqa: SLF001 - nothing else tells
            return
        if not context.execution_options.get(BY_HAND):
            for each in (context.compiled.statement, *(cte.element for cte in within or ())):
                if isinstance(each, UpdateBase):
                    self._require_dml_seen(session, each)

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
