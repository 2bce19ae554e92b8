"""Changes many rows in few statements: one locks them, one updates them, one writes their audit entries."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import (
    Column,
    inspect,
    select,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstanceState, Mapper
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.sql import ClauseElement

from ledgerq.database.bulk_update import update_by_key
from ledgerq.errors import NotAudited, Refused
from ledgerq.store.audit import Origin, check_origin, entry_of, write_entries
from ledgerq.store.audit_statements import BY_HAND
from ledgerq.store.audit_values import RowValues
from ledgerq.store.audited import acting_as
from ledgerq.store.entities import column_fields, key_fields
from ledgerq.store.row_keys import among
from ledgerq.store.writes import naming_references

T = TypeVar("T")
_OPEN = "ledgerq_bulk_update"  # in the `info` of a session, within a block
_Values = dict[str, Any]  # of columns, by the names of their attributes


async def lock_rows(session: AsyncSession, table: type[T], keys: Iterable[Any]) -> dict[Any, T]:
    """Read the rows with these keys and lock them until the transaction ends, in one statement; returns them by key.

    ```python
    locked = await lock_rows(session, Order, {each.id for each in orders})
    ```

    A key is a value, or a tuple of values if the primary key has several columns. A row that does not exist is left
    out. The rows are locked in the order of their keys, so that two batches do not deadlock. Changes of the session are
    flushed first; then its objects get the values that the rows have now.

    Raises:
        Refused: it is called in a `BulkUpdate` block, whose changes are not written yet.
    """
    wanted = list(set(keys))
    if not wanted:
        return {}
    if session.info.get(_OPEN):
        raise Refused(
            "lock_rows",
            "lock the rows before the BulkUpdate block, whose changes are not written yet",
        )
    columns = inspect(table).primary_key
    have_a_key = among(columns, wanted, in_arrays=_is_postgresql(session))
    rows = select(table).where(have_a_key).order_by(*columns).with_for_update(of=table)
    await session.flush()
    found = await session.scalars(rows, execution_options={"populate_existing": True})
    return {_key_of(row): row for row in found.unique()}


@dataclass(frozen=True, slots=True)
class _Alike:
    """What the changes of one UPDATE have in common. `turn`: how often their rows were added before."""

    turn: int
    mapper: Mapper[Any]
    fields: tuple[str, ...]
    by_trigger: Origin | None  # the author, where a trigger writes the entries


class BulkUpdate:
    """A block at whose end the changes of many rows are written: one UPDATE for all rows with the same changed columns.

    If a row is added twice, each `add` has its own UPDATE, in order: constraints and triggers see each state of the row.

    ```python
    async def close_all(contexts: Sequence[JobContext], closes: Sequence[CloseOrder]) -> None:
        session = contexts[0].session
        orders = await lock_rows(session, Order, {close.order_id for close in closes})
        async with BulkUpdate(session) as updates:
            for context, close in zip(contexts, closes, strict=True):
                order = orders[close.order_id]
                order.status = "closed"
                updates.add(order, context.origin)
    ```

    Until the block ends, the database has the former values. If the block raises, nothing is written. What was not
    added, the session's flush writes as always.

    Raises:
        ConstraintError: at the end of the block, if the database refuses a row; names the field.
    """

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._turns: dict[InstanceState[Any], int] = {}
        self._changes: dict[_Alike, list[tuple[Any, _Values]]] = {}
        self._entries: list[dict[str, Any]] = []

    async def __aenter__(self) -> Self:
        self._session.info[_OPEN] = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self._session.info.pop(_OPEN, None)
        if kind is None:
            self._require_newest()
            await self._write()
        else:
            for state in self._turns:  # their values count as written, and were not
                self._session.expire(state.obj())

    def add(self, row: object, origin: Origin | None = None) -> None:
        """Note the changes that were made to the row's attributes since it was read, or since its last `add`.

        They are written at the end of the block, and no flush of the session writes them. If the row's class is audited,
        they become one audit entry.

        Args:
            row: an object that the session has loaded.
            origin: the author of the changes; None: the origin of the session.

        Raises:
            NotAudited: the class is audited, and no author is known.
            Refused: only a flush of the session can write the change; names the class or the attribute.
        """
        state: InstanceState[Any] = inspect(row)
        sync: Any = self._session.sync_session
        values = _changed(row, state)
        if not values:
            return
        origin, recorder = origin or getattr(sync, "origin", None), getattr(sync, "recorder", None)
        rules = recorder.rules_of(type(row)) if recorder else None
        by_trigger = bool(rules and rules.by_trigger) and _is_postgresql(self._session)
        if rules and not by_trigger:
            self._audit(RowValues(state, rules, {}), origin)
        elif rules and origin is None and (change := RowValues(state, rules, {}).updated()):
            raise NotAudited.without_origin(change.entity_type)
        turn = self._turns[state] = self._turns.get(state, -1) + 1
        alike = _Alike(turn, state.mapper, tuple(sorted(values)), origin if by_trigger else None)
        self._changes.setdefault(alike, []).append((row, values))
        # as after a flush, so that no flush writes the changes once more; there is no public way
        state._commit_all(state.dict, sync.identity_map)  # noqa: SLF001

    def _audit(self, row: RowValues, origin: Origin | None) -> None:
        if change := row.updated():
            if origin is None:
                raise NotAudited.without_origin(change.entity_type)
            check_origin(origin)
            self._entries.append(entry_of(origin, change))
        row.keep_documents()

    def _require_newest(self) -> None:
        """Refuse to write a value over a newer one that a flush within the block has written."""
        newest = {
            (inspect(row), f): v
            for each in self._changes.values()
            for row, values in each
            for f, v in values.items()
        }
        for (state, field), value in newest.items():
            if field not in state.committed_state and state.dict.get(field, value) is not value:
                raise Refused(
                    field, "was changed and flushed after its `add`; add the row after each change"
                )

    async def _write(self) -> None:
        for alike in sorted(self._changes, key=lambda each: each.turn):
            if alike.by_trigger:  # the trigger takes one author for all rows of a statement
                async with acting_as(self._session, alike.by_trigger):
                    await self._update(alike, self._changes[alike])
            else:
                await self._update(alike, self._changes[alike])
        await write_entries(self._session, self._entries)

    async def _update(self, alike: _Alike, changes: Sequence[tuple[Any, _Values]]) -> None:
        mapper: Any = alike.mapper
        rows = [row for row, _ in changes]
        identities = zip(*(inspect(row).identity for row in rows), strict=True)
        keys = dict(zip(mapper.primary_key, identities, strict=True))
        new = {mapper.attrs[f].columns[0]: [v[f] for _, v in changes] for f in alike.fields}
        async with naming_references(self._session, rows):
            known = await update_by_key(self._session, keys, new, {BY_HAND: True})
        if not known:
            raise StaleDataError(f"a row of {mapper.local_table} is gone: lock the rows first")
        if stale := _set_by_the_database(mapper).difference(alike.fields):
            for row in rows:
                self._session.sync_session.expire(row, stale)


def _changed(row: Any, state: InstanceState[Any]) -> _Values:
    """The new values of the columns that were changed.

    Raises:
        Refused: only a flush can write the change.
    """
    mapper: Any = state.mapper
    values = {
        field: state.dict.get(field)
        for field, former in state.committed_state.items()
        if state.manager[field].impl.is_equal(state.dict.get(field), former) is not True
    }
    if values and (
        state.key is None or len(mapper.tables) > 1 or mapper.version_id_col is not None
    ):
        raise Refused(mapper.class_.__name__, "only a flush can write this row: leave out `add`")
    columns, keys = column_fields(mapper.class_), key_fields(mapper.class_)
    for field, value in values.items():
        if field not in columns or field in keys or isinstance(value, ClauseElement):
            raise Refused(field, "only a flush can write this change: leave out `add`")
    return values


def _set_by_the_database(mapper: Mapper[Any]) -> set[str]:
    """The attributes whose columns an UPDATE fills by itself."""
    return {
        each.key
        for each in mapper.column_attrs
        if isinstance(each.columns[0], Column)
        and (each.columns[0].onupdate or each.columns[0].server_onupdate)
    }


def _is_postgresql(session: AsyncSession) -> bool:
    return session.get_bind().dialect.name == "postgresql"


def _key_of(row: object) -> Any:
    identity = inspect(row).identity
    return identity[0] if len(identity) == 1 else identity
