"""Audit entries that the session's flush writes, for the classes in `App(audited=[…])`.

1. before a flush   note each SQL expression that is assigned: after the flush the session has forgotten it
2. after a flush    the rows are written and have ids: write one entry for each changed row, all in one statement
3. at a load        copy JSON that can be changed in place, so that an entry can show its former value
4. at a statement   refuse statements that bypass the flush: see ledgerq.store.audit_statements
"""

from asyncio import CancelledError
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

from sqlalchemy import event, inspect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from ledgerq.database.bulk_insert import insert_rows_now
from ledgerq.database.session import SyncSession
from ledgerq.errors import NotAudited
from ledgerq.store.audit import Change, Origin, check_origin, entry_of
from ledgerq.store.audit_rules import Audited, Rules, rules_for
from ledgerq.store.audit_statements import StatementGuard, acts_nobody, by_trigger
from ledgerq.store.audit_trigger import SET_ORIGIN, origin_as_json
from ledgerq.store.audit_values import (
    changes_of,
    expressions_of,
    forget_documents,
    hidden_names,
    keep_documents,
)
from ledgerq.store.audit_writers import require_no_other_writer, require_not_beside
from ledgerq.store.tables import AuditLog


class FlushRecorder:
    """Writes the audit entries of an application's audited classes, in the flush that writes their rows.

    Raises:
        DefinitionError: when it is made: a class can't be audited as `Audited` says; the text says why, and what to change.
    """

    def __init__(self, audited: Iterable[type[Any] | Audited]) -> None:
        self.rules = rules_for(audited)
        require_no_other_writer(self.rules)
        self._known: dict[type[Any], Rules | None] = dict(self.rules)
        self._hidden = hidden_names(self.rules.values())
        # True if triggers write entries: they must be told the origin, see set_origin
        self.uses_triggers = any(rules.by_trigger for rules in self.rules.values())
        self.session_class: type[SyncSession] = type(
            "AuditingSession", (SyncSession,), {"recorder": self, "by_hand": False}
        )
        guard = StatementGuard(self.rules, self.session_class)
        self.require_seen, self.listen = guard.require_seen, guard.listen
        event.listen(self.session_class, "before_flush", self._before_flush)
        event.listen(self.session_class, "after_flush", self._after_flush)
        event.listen(self.session_class, "loaded_as_persistent", self._loaded)
        for entity, rules in self.rules.items():
            _watch(entity, rules)

    def rules_of(self, entity: type[Any]) -> Rules | None:
        """The rules of a class, or of its nearest audited parent; None if it is not audited.

        Raises:
            DefinitionError: it is not audited, was mapped after the `App` was made, and has rows in an audited table.
        """
        try:
            return self._known[entity]
        except KeyError:
            named = next((self.rules[each] for each in entity.__mro__ if each in self.rules), None)
            if not named:
                require_not_beside(inspect(entity), self.rules)
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

    def _before_flush(self, session: Any, *_: object) -> None:
        session.expressions = {}
        for entity in (*session.new, *session.dirty):
            rules = self.rules_of(type(entity))
            if rules and (found := expressions_of(inspect(entity), rules)):
                session.expressions[inspect(entity)] = found

    def _after_flush(self, session: Any, context: Any) -> None:
        """Write the entries. `context.states` also has the rows that cascades, orphans and foreign keys touch."""
        nobody = acts_nobody(session)
        touched = [
            (state, rules, deleted, listed)  # listed: there for the order only, not written
            for state, (deleted, listed) in context.states.items()
            if (rules := self.rules_of(state.class_))
            and (nobody or not by_trigger(session, rules))  # nobody: such changes are refused
        ]
        if not touched:
            return
        if session.origin is not None:
            check_origin(session.origin)
        entries = [_entry(session, change) for change in changes_of(touched, session.expressions)]
        if session.gathered is not None:
            session.gathered.extend(entries)
        else:
            insert_rows_now(session, AuditLog, entries)

    def _loaded(self, _session: Session, entity: object) -> None:
        rules = self.rules_of(type(entity))
        if rules and rules.documents:
            keep_documents(inspect(entity), rules)


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


def _entry(session: Any, change: Change) -> dict[str, Any]:
    if session.origin is None:
        raise NotAudited.without_origin(change.entity_type)
    return entry_of(session.origin, change)


async def set_origin(session: AsyncSession, origin: Origin | None) -> None:
    """Make `origin` the author of the transaction's changes from now on; None: no author is known."""
    sync: Any = session.sync_session
    recorder: FlushRecorder | None = getattr(sync, "recorder", None)
    needed = recorder.uses_triggers if recorder else not isinstance(sync, SyncSession)
    if needed and session.get_bind().dialect.name == "postgresql":
        required = getattr(sync, "must_name_author", False)
        told = {"origin": origin_as_json(origin, required=required)}
        await session.execute(SET_ORIGIN, told)
    # only now: the statement may have flushed earlier changes, which have the former author
    sync.origin = origin


async def require_authors(session: AsyncSession) -> None:
    """Refuse changes of audited classes from now on until an author is named, even where a trigger writes the entries."""
    sync: Any = session.sync_session
    sync.must_name_author = True
    await set_origin(session, None)


@asynccontextmanager
async def acting_as(session: AsyncSession, origin: Origin) -> AsyncIterator[None]:
    """Make `origin` the author of the block's changes, in the entries of audited classes.

    ```python
    async with transaction(sessions) as session, acting_as(session, Origin("user:42")):
        session.add(order)
    ```

    A job's handler does not need this: the author is the job's actor. Earlier changes are flushed when the block
    begins, the block's changes when it ends, also when it ends by an error or a cancellation. If they can't be flushed
    then, they get no other author: a later flush is refused (`NotAudited`), or the transaction is rolled back.

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
    except (Exception, CancelledError):
        with suppress(Exception):  # after a database error the transaction can only be rolled back
            await _hand_back(session, sync, before)
        raise
    except BaseException:  # the task is torn down, and may await nothing
        _act_from_now_on(session, sync, None, known=False)
        raise
    else:
        await _hand_back(session, sync, before)


async def _hand_back(session: AsyncSession, sync: Any, before: Origin | None) -> None:
    """Flush the changes of the author that acts now; from then on `before` acts again.

    If the changes can't be flushed, and no rollback must follow, nobody acts: they must not become those of `before`.
    """
    try:
        await session.flush()
    except BaseException:
        _act_from_now_on(session, sync, before, known=not sync.is_active)
        raise
    try:
        await set_origin(session, before)
    except BaseException as error:
        must_roll_back = isinstance(error, SQLAlchemyError | CancelledError)
        _act_from_now_on(session, sync, before, known=must_roll_back)
        raise


def _act_from_now_on(
    session: AsyncSession, sync: Any, author: Origin | None, *, known: bool
) -> None:
    """Name the author without telling the database; if not known, changes are refused until `set_origin` names one."""
    job_has_ended = session.sync_session is not sync  # and the next one acts
    if not job_has_ended:
        sync.origin = author if known else None
        sync.must_name_author = sync.must_name_author or not known
