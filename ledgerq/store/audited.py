"""Audit entries that the session's flush writes, for the classes in `App(audited=[…])`.

1. before a flush   note each SQL expression that is assigned: after the flush the session has forgotten it
2. after a flush    the rows are written and have ids: write one entry for each changed row, all in one statement
3. at a load        copy JSON that can be changed in place, so that an entry can show its former value
4. at a statement   refuse statements that bypass the flush, like `update(Order)`, unless a trigger writes the entries
"""

from collections.abc import AsyncIterator, Collection, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary, ref

from sqlalchemy import Alias, Connection, Engine, Result, UpdateBase, event, inspect
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import FromStatement, InstanceState, ORMExecuteState, Session
from sqlalchemy.orm.util import identity_key

from ledgerq.database.bulk_insert import insert_rows_now
from ledgerq.database.session import SyncSession
from ledgerq.errors import NotAudited
from ledgerq.store.audit import Change, Origin, check_origin, entry_of
from ledgerq.store.audit_rules import Audited, Rules, TableRules, rules_by_table, rules_for
from ledgerq.store.audit_trigger import SET_ORIGIN, origin_as_json
from ledgerq.store.audit_values import (
    RowValues,
    expressions_of,
    forget_documents,
    hidden_names,
    keep_documents,
)
from ledgerq.store.tables import AuditLog

BY_HAND = "ledgerq_audited_by_hand"  # execution option: the caller records a statement's entries


class FlushRecorder:
    """Writes the audit entries of an application's audited classes, in the flush that writes their rows.

    Raises:
        DefinitionError: when it is made: a class can't be audited as `Audited` says; the text says why, and what to change.
    """

    def __init__(self, audited: Iterable[type[Any] | Audited]) -> None:
        self.rules = rules_for(audited)
        self._known: dict[type[Any], Rules | None] = dict(self.rules)
        self._tables: dict[Any, TableRules | Rules | None] = {**rules_by_table(self.rules.values())}
        self._hidden = hidden_names(self.rules.values())
        # True if triggers write entries: they must be told the origin, see set_origin
        self.uses_triggers = any(rules.by_trigger for rules in self.rules.values())
        self.session_class: type[SyncSession] = type(
            "AuditingSession", (SyncSession,), {"recorder": self, "by_hand": False}
        )
        self._sessions: WeakKeyDictionary[Connection, ref[Session]] = WeakKeyDictionary()
        event.listen(self.session_class, "after_begin", self._begun)
        event.listen(self.session_class, "before_flush", self._before_flush)
        event.listen(self.session_class, "after_flush", self._after_flush)
        event.listen(self.session_class, "do_orm_execute", self._before_statement)
        event.listen(self.session_class, "loaded_as_persistent", self._loaded)
        for entity, rules in self.rules.items():
            _watch(entity, rules)

    def rules_of(self, entity: type[Any]) -> Rules | None:
        """The rules of a class, or of its nearest audited parent; None if it is not audited."""
        try:
            return self._known[entity]
        except KeyError:
            named = next((self.rules[each] for each in entity.__mro__ if each in self.rules), None)
            found = self._known[entity] = named.of_subclass(entity) if named else None
            if found:
                _watch(entity, found)
                self._hidden = hidden_names(filter(None, self._known.values()))
            return found

    def shown(self, change: Change) -> Change:
        """A hand-recorded change, values masked or left out by its entity type's rules; the same if there are no rules."""
        hidden = self._hidden.get(change.entity_type)
        if hidden is None:
            return change
        return replace(change, before=hidden.left(change.before), after=hidden.left(change.after))

    def require_seen(self, session: Session, table: object, statement: str) -> None:
        """Refuse a statement that bypasses the session's flush, if it changes an audited table without a trigger.

        Raises:
            NotAudited: the statement would leave no entry.
        """
        rules = self._on(table)
        if rules and not _by_trigger(session, rules):
            raise NotAudited.past_the_session(rules.name, statement)

    def _on(self, table: Any) -> TableRules | Rules | None:
        """The rules of a table, or of what stands for one, like an alias; None if it is not audited."""
        while isinstance(table, Alias):
            table = table.element
        try:
            return self._tables[table]
        except KeyError:
            found = next((each for each in self.rules.values() if table in each.tables), None)
            self._tables[table] = found
            return found

    def _before_flush(self, session: Any, *_: object) -> None:
        session.expressions = {}
        for entity in (*session.new, *session.dirty):
            rules = self.rules_of(type(entity))
            if rules and (found := expressions_of(inspect(entity), rules)):
                session.expressions[inspect(entity)] = found

    def _after_flush(self, session: Any, context: Any) -> None:
        """Write the entries. `context.states` also has the rows that cascades, orphans and foreign keys touch."""
        touched = [
            (state, rules, deleted, listed)  # listed: there for the order only, not written
            for state, (deleted, listed) in context.states.items()
            if (rules := self.rules_of(state.class_)) and not _by_trigger(session, rules)
        ]
        if not touched:
            return
        if session.origin is not None:
            check_origin(session.origin)
        entries = [_entry(session, change) for change in _changes(touched, session.expressions)]
        if session.gathered is not None:
            session.gathered.extend(entries)
        else:
            insert_rows_now(session, AuditLog, entries)

    def _loaded(self, _session: Session, entity: object) -> None:
        rules = self.rules_of(type(entity))
        if rules and rules.documents:
            keep_documents(inspect(entity), rules)

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

    def _begun(self, session: Session, _: object, connection: Connection) -> None:
        self._sessions[connection] = ref(session)

    def _before_cursor(self, connection: Connection, *given: Any) -> None:
        context: Any = given[3]
        within = getattr(context.compiled, "ctes", None)
        if not (within or context.isinsert or context.isupdate or context.isdelete):
            return
        held = self._sessions.get(connection)
        session: Any = held() if held else None
        if session is None or session._flushing or session.by_hand:  # noqa: SLF001 - nothing else tells of a flush
            return
        if not context.execution_options.get(BY_HAND):
            for each in (context.compiled.statement, *(cte.element for cte in within or ())):
                if isinstance(each, UpdateBase):
                    self._require_dml_seen(session, each)

    def _require_dml_seen(self, session: Session, statement: UpdateBase) -> None:
        rules = self._on(statement.table)
        if rules and not _by_trigger(session, rules):
            name = statement.entity_description.get("name") or rules.name
            raise NotAudited.past_the_session(rules.name, f"{_verb(statement)}({name})")


def _by_hand(state: ORMExecuteState) -> Result[Any]:
    """Run the statement. SQLAlchemy does not hand the option on to each statement that it makes of it."""
    session: Any = state.session
    session.by_hand = True
    try:
        return state.invoke_statement()
    finally:
        session.by_hand = False


def _watch(entity: type[Any], rules: Rules) -> None:
    """Hear of each time that documents of the class are read again, or forgotten; in any session."""
    for name, listener in (("refresh", _read_again), ("expire", _expired)):
        if rules.documents and not event.contains(entity, name, listener):
            event.listen(entity, name, listener)


def _read_again(entity: object, context: Any, fields: Collection[str] | None) -> None:
    recorder: FlushRecorder | None = getattr(context.session, "recorder", None)
    rules = recorder.rules_of(type(entity)) if recorder else None
    if rules and rules.documents:
        keep_documents(inspect(entity), rules, fields)


def _expired(entity: object, fields: Collection[str] | None) -> None:
    forget_documents(inspect(entity), fields)


def _verb(statement: UpdateBase) -> str:
    return "insert" if statement.is_insert else "update" if statement.is_update else "delete"


def _by_trigger(session: Session, rules: Rules | TableRules) -> bool:
    """True if a trigger writes the entries. On SQLite, which has no such triggers, the flush writes them."""
    return rules.by_trigger and session.get_bind().dialect.name == "postgresql"


_Touched = tuple[InstanceState[Any], Rules, bool, bool]


def _changes(touched: list[_Touched], expressions: dict[Any, Any]) -> Iterator[Change]:
    """The changes, deletes first: if a new row takes the key of a deleted one, the entries are in the right order."""
    fresh = {
        identity_key(instance=state.obj())
        for state, _, deleted, listed in touched
        if state.key is None and not deleted and not listed
    }
    written = list[tuple[int, RowValues]]()
    for state, rules, deleted, listed in touched:
        row = RowValues(state, rules, expressions.get(state, {}))
        if deleted:
            if not listed or state.key in fresh:  # in fresh: a new object took over the row
                yield row.deleted()
        elif state.key is not None or not listed:
            written.append((state.insert_order or 0, row))
            if state.key is not None and row.old_key != row.new_key:
                yield row.deleted()
    for _, row in sorted(written, key=lambda each: each[0]):
        if change := row.written():
            yield change
        row.keep_documents()


def _entry(session: Any, change: Change) -> dict[str, Any]:
    if session.origin is None:
        raise NotAudited.without_origin(change.entity_type)
    return entry_of(session.origin, change)


async def set_origin(session: AsyncSession, origin: Origin | None) -> None:
    """Make `origin` the author of the transaction's changes from now on; None: no author is known."""
    sync: Any = session.sync_session
    sync.origin = origin
    recorder: FlushRecorder | None = getattr(sync, "recorder", None)
    needed = recorder.uses_triggers if recorder else not isinstance(sync, SyncSession)
    if needed and session.get_bind().dialect.name == "postgresql":
        await session.execute(SET_ORIGIN, {"origin": origin_as_json(origin)})


@asynccontextmanager
async def acting_as(session: AsyncSession, origin: Origin) -> AsyncIterator[None]:
    """Make `origin` the author of the block's changes, in the entries of audited classes.

    ```python
    async with transaction(sessions) as session, acting_as(session, Origin("user:42")):
        session.add(order)
    ```

    A job's handler does not need this: the author is the job's actor. Earlier changes are flushed when the block
    begins, the block's changes when it ends, also when it ends by an error.

    With a session of another sessionmaker, on PostgreSQL, the author is that of the triggers' entries only.

    Raises:
        Refused: the log can't store the origin; the error names the field.
        NotAudited: on SQLite, the session is not one of ledgerq's: nothing would write entries.
    """
    check_origin(origin)
    sync: Any = session.sync_session
    if not isinstance(sync, SyncSession) and session.get_bind().dialect.name != "postgresql":
        raise NotAudited.by_another_session()
    await session.flush()
    before = getattr(sync, "origin", None)
    await set_origin(session, origin)
    try:
        yield
        await session.flush()
    except Exception:
        with suppress(Exception):  # after a database error the transaction can only be rolled back
            await session.flush()
            await set_origin(session, before)
        raise
    else:
        await set_origin(session, before)
    finally:
        sync.origin = before
