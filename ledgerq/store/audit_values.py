"""The values of one row before and after a flush, as far as the session has loaded them: this module reads nothing."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import InstanceState, PassiveFlag
from sqlalchemy.orm.attributes import get_history
from sqlalchemy.orm.util import identity_key
from sqlalchemy.sql import ClauseElement

from ledgerq.store.audit import Change
from ledgerq.store.audit_rules import Rules
from ledgerq.store.entities import as_json, fitted, key_text
from ledgerq.store.tables import Action

MASK = "***"
_DOCUMENTS = "ledgerq_documents"  # in a state's `info`
_UNKNOWN: Any = object()  # the value is not loaded
# a flush's row; is it deleted; is it there for the order only
Touched = tuple[InstanceState[Any], Rules, bool, bool]
Expressions = Mapping[str, tuple[Any, str]]  # field → its value before, and the SQL expression


@dataclass(frozen=True, slots=True)
class Hidden:
    """The attributes and columns that audit entries of one entity type show as `***` (masked) or not at all (excluded)."""

    masked: frozenset[str] = frozenset()
    excluded: frozenset[str] = frozenset()

    def left(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values that an entry may show: without excluded names, and with `***` for masked values other than None."""
        return {
            name: MASK if name in self.masked and value is not None else value
            for name, value in values.items()
            if name not in self.excluded
        }


def hidden_names(rules: Iterable[Rules]) -> dict[str, Hidden]:
    """What the entries of each type hide. A type has the rows of a class and of all that inherit from it."""
    found = dict[str, Hidden]()
    for each in rules:
        so_far = found.get(each.entity_type, Hidden())
        found[each.entity_type] = Hidden(
            so_far.masked | _names(each, each.masked),
            so_far.excluded | _names(each, each.audited.exclude),
        )
    return {name: each for name, each in found.items() if each != Hidden()}


def _names(rules: Rules, fields: Iterable[str]) -> set[str]:
    attributes = rules.mapper.attrs
    return {name for f in fields for name in (f, *(c.name for c in attributes[f].columns))}


def expressions_of(state: InstanceState[Any], rules: Rules) -> dict[str, tuple[Any, str]]:
    """For each field to which an SQL expression is assigned: its former value and the expression's text.

    To be asked before the flush; after it the session may not know that the fields changed.
    """
    return {
        field: (_before(state, field), str(value))
        for field in rules.fields
        if _is_expression(value := state.dict.get(field))
    }


def _is_expression(value: object) -> bool:
    return isinstance(value, ClauseElement) or hasattr(value, "__clause_element__")


def keep_documents(
    state: InstanceState[Any], rules: Rules, read: Collection[str] | None = None
) -> None:
    """Copy values that can be changed in place, so that a later entry can show their former state.

    `read`: only these fields were read from the database; None: all of them.
    """
    held, copies = state.dict, state.info.setdefault(_DOCUMENTS, {})
    if read is None:
        copies.clear()
    for field in rules.documents:
        if field in held and (read is None or field in read):
            copies[field] = as_json(held[field])


def forget_documents(state: InstanceState[Any], fields: Iterable[str] | None = None) -> None:
    """Drop the copies of former JSON values of these fields, or of all if None: the session has expired the fields."""
    copies = state.info.get(_DOCUMENTS, {})
    for field in tuple(copies) if fields is None else fields:
        copies.pop(field, None)


class RowValues:
    """One row of an audited class during a flush: it is written, and the session still knows its former values."""

    def __init__(self, state: InstanceState[Any], rules: Rules, expressions: Expressions) -> None:
        self._state, self._rules, self._expressions = state, rules, expressions
        self._held = state.dict
        self.new_key = tuple(self._held.get(field) for field in rules.keys)
        self.old_key = tuple(state.key[1]) if state.key else self.new_key

    def written(self, former: "RowValues | None" = None) -> Change | None:
        """The entry of a row that a flush wrote: `created()` if the row or its key is new, else `updated()` or None."""
        if self._state.key is None or self.old_key != self.new_key:
            return self.created(former)
        return self.updated()

    def keep_documents(self) -> None:
        """Copy the values that can be changed in place, for the entry of the next flush."""
        if self._rules.documents:
            keep_documents(self._state, self._rules)

    def created(self, former: "RowValues | None" = None) -> Change:
        """The entry of a new row: all its values that are not None.

        `former`: the deleted row whose place it took in one UPDATE. What the new object does not set stays of that row.
        """
        after = {field: self._after(field) for field in self._rules.fields}
        if former:
            after |= former.stayed([field for field in after if after[field] is _UNKNOWN])
        return self._change(self.new_key, Action.CREATE, {}, _without_empty(after))

    def deleted(self) -> Change:
        """The entry of a deleted row: its values in the database that were loaded and are not None."""
        before = {field: self._before(field) for field in self._rules.fields}
        return self._change(self.old_key, Action.DELETE, _without_empty(before), {})

    def updated(self) -> Change | None:
        """The entry of the fields that changed, without former values that were not loaded. None if nothing changed."""
        touched = self._state.committed_state.keys() | self._expressions.keys()
        before, after = dict[str, Any](), dict[str, Any]()
        for field in self._rules.fields:
            if field in touched and self._has_changed(field):
                old, new = self._before(field), self._after(field)
                if field in self._rules.documents and old == new:
                    continue
                before |= {} if old is _UNKNOWN else {field: old}
                after |= {} if new is _UNKNOWN else {field: new}
        if not before and not after:
            return None
        return self._change(self.old_key, Action.UPDATE, before, after)

    def stayed(self, fields: Iterable[str]) -> dict[str, Any]:
        """The values of the row that an UPDATE without these fields leaves as they are."""
        attributes = self._rules.mapper.attrs
        return {
            field: self._before(field)
            for field in set(fields) & set(self._rules.fields)
            if not any(c.onupdate or c.server_onupdate for c in attributes[field].columns)
        }

    def _change(
        self, key: Any, action: Action, before: dict[str, Any], after: dict[str, Any]
    ) -> Change:
        told = self._told(before), self._told(after)
        return Change(self._rules.entity_type, key_text(key), action, *told)

    def _told(self, values: dict[str, Any]) -> dict[str, Any]:
        """The values as the entry shows them: masked columns as `***`, long values cut."""
        masked = self._rules.masked
        return {
            field: MASK if field in masked and value is not None else fitted(value)
            for field, value in values.items()
        }

    def _has_changed(self, field: str) -> bool:
        if field in self._expressions:
            return True
        return get_history(
            self._state.obj(), field, PassiveFlag.PASSIVE_NO_INITIALIZE
        ).has_changes()

    def _after(self, field: str) -> Any:
        value = self._held.get(field, _UNKNOWN)
        if field in self._expressions and (value is _UNKNOWN or _is_expression(value)):
            return {"sql": self._expressions[field][1]}
        if value is _UNKNOWN and field in self._state.committed_state:
            return None  # the attribute was deleted
        return value if value is _UNKNOWN else as_json(value)

    def _before(self, field: str) -> Any:
        value = (
            self._expressions[field][0]
            if field in self._expressions
            else _before(self._state, field)
        )
        copies = self._state.info.get(_DOCUMENTS, {})
        if field in copies:  # the value itself may have been changed in place
            return copies[field]
        return value if value is _UNKNOWN else as_json(value)


def changes_of(
    touched: Sequence[Touched], expressions: Mapping[InstanceState[Any], Expressions]
) -> Iterator[Change]:
    """The changes, deletes first: if a new row takes the key of a deleted one, the entries are in the right order."""
    fresh: dict[Any, InstanceState[Any]] = {
        identity_key(instance=state.obj()): state
        for state, _, deleted, listed in touched
        if state.key is None and not deleted and not listed
    }
    written = list[tuple[int, InstanceState[Any], RowValues]]()
    former = dict[InstanceState[Any] | None, RowValues]()
    for state, rules, deleted, listed in touched:
        row = RowValues(state, rules, expressions.get(state, {}))
        if deleted:
            heir = fresh.get(state.key) if listed else None  # it takes over the row, by an UPDATE
            if heir or not listed:
                former[heir] = row
                yield row.deleted()
        elif state.key is not None or not listed:
            written.append((state.insert_order or 0, state, row))
            if state.key is not None and row.old_key != row.new_key:
                yield row.deleted()
    for _, state, row in sorted(written, key=lambda each: each[0]):
        if change := row.written(former.get(state)):
            yield change
        row.keep_documents()


def _before(state: InstanceState[Any], field: str) -> Any:
    """The field's value in the database before the flush; `_UNKNOWN` if it was not loaded."""
    if field not in state.committed_state:
        return state.dict.get(field, _UNKNOWN)
    history = get_history(state.obj(), field, PassiveFlag.PASSIVE_NO_INITIALIZE)
    former = history.deleted or history.unchanged  # unchanged: an equal value was assigned
    return former[0] if former else _UNKNOWN


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    return {f: value for f, value in values.items() if value is not _UNKNOWN and value is not None}
