"""Sessions that one task may use at a time, and the session that a job's handler gets."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, Protocol, TypeVar, TypeVarTuple, overload

from sqlalchemy import CursorResult, ScalarResult, UpdateBase, event
from sqlalchemy.engine import TupleResult
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction
from sqlmodel.sql.expression import Select, SelectOfScalar

from ledgerq.errors import JobEnded, NotAllowedInJob, SessionShared

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class SyncSession(Session):
    """SQLAlchemy's session in a class of its own, so that the events below listen to ledgerq's sessions only.

    While jobs share a transaction, `waiting` holds changed rows and `gathered` audit entries, which are written at its
    end (see ledgerq.store.writes); `met` holds the rows that the running job has loaded or added.
    """

    fence: "Guard | None" = None  # while a handler runs
    waiting: dict[int, Any] | None = None
    gathered: list[dict[str, Any]] | None = None
    marks: dict[SessionTransaction, int]  # savepoint → entries in `gathered` when it began
    met: list[Any] | None = None
    origin: object = None  # the author of changes (see ledgerq.store.audited)
    must_name_author = False  # even in the entries of triggers
    recorder: Any = None  # of the application's audited classes
    locking = False  # inside reading_others of ledgerq.store.writes

    def begin(self, nested: bool = False) -> SessionTransaction:
        """Begin a transaction. A handler may begin savepoints only."""
        if self.fence and not nested:
            raise NotAllowedInJob("session.begin()")
        return super().begin(nested=nested)

    def _connection_for_bind(self, *args: Any, **more: Any) -> Any:
        """Called for each statement: checks that a handler's statement runs in the transaction that it was given."""
        if self.fence:
            self.fence.require(self.get_transaction())
        return super()._connection_for_bind(*args, **more)


class Guard(Protocol):
    """Keeps a handler from ending its transaction: `Fence` of ledgerq.database.fence."""

    def require(self, root: SessionTransaction | None) -> None:
        """Refuse a statement if `root`, the session's transaction now, is not the one that the handler was given."""


class LedgerqSession(AsyncSession):
    """A session that only one task may use at a time.

    `idle_limit`: the seconds without a statement after which the database ends the transaction; 0: it never does.
    """

    sync_session_class = SyncSession
    opened: AsyncConnection | None = None  # by ledgerq.database.transaction
    _user: "asyncio.Task[Any] | None" = None

    def __init__(self, *args: Any, idle_limit: float = 0, **more: Any) -> None:
        super().__init__(*args, **more)
        self.idle_limit = idle_limit

    @overload
    async def exec(self, statement: SelectOfScalar[T], **options: Any) -> ScalarResult[T]: ...

    @overload
    async def exec(self, statement: Select[*Ts], **options: Any) -> TupleResult[tuple[*Ts]]: ...

    @overload
    async def exec(self, statement: UpdateBase, **options: Any) -> CursorResult[Any]: ...

    async def exec(self, statement: Any, **options: Any) -> Any:
        """Execute, as SQLModel's session does: a select of one column or class gives values, any other statement rows.

        Args:
            statement: made by `sqlmodel.select`, or an insert, update or delete.
            **options: the options of `execute`: `params`, `execution_options`, `bind_arguments`.
        """
        found = await self.execute(statement, **options)
        return found.scalars() if isinstance(statement, SelectOfScalar) else found

    async def hand_over(self) -> None:
        """Make the session ready for the next job in the same transaction.

        Loaded rows are expunged, so that the next job reads them anew. Rows whose write is deferred stay.
        """
        session: Any = self.sync_session
        waiting, met = session.waiting or {}, session.met or []
        unwritten = session.new or session.deleted
        if unwritten or any(session.is_modified(each) for each in met if id(each) not in waiting):
            await self.flush()
        while session.in_nested_transaction():
            await self.run_sync(_release_savepoint)
        for each in met:
            if id(each) not in waiting and each in session:
                session.expunge(each)
        met.clear()
        session.info.clear()
        session.autoflush = True


def _release_savepoint(session: Session) -> None:
    if savepoint := session.get_nested_transaction():
        with savepoint:  # leaving it keeps what it did
            pass


class JobSession(LedgerqSession):
    """The session that a handler gets. The handler can't end its transaction, nor use the session after the job."""

    def __init__(self, session: LedgerqSession, job_id: str) -> None:
        # shares the state of that session; super().__init__ would make a new one
        vars(self).update(vars(session), _user=None)
        self.sync_session = self._proxied = self._assign_proxied(session.sync_session)
        self._job_id, self.lent = job_id, ""  # what a handler took that may outlive the job

    @property
    def busy(self) -> bool:
        """True if a task is awaiting one of the session's methods."""
        return self._user is not None

    def end(self) -> None:
        """End the session: from now on each use raises `JobEnded`."""
        self.sync_session = self._proxied = _Ended(self._job_id)  # type: ignore[assignment]

    async def connection(self, *args: Any, **more: Any) -> AsyncConnection:
        """The connection. The job then can't share a transaction with other jobs: its handler might keep the connection."""
        self.lent = "session.connection()"
        return await super().connection(*args, **more)

    async def run_sync(self, *args: Any, **more: Any) -> Any:
        """Run a function with the sync session. A job that does so gets a transaction of its own: see `connection`."""
        self.lent = "session.run_sync()"
        return await super().run_sync(*args, **more)

    async def __aenter__(self) -> NoReturn:
        self._refuse("async with session")

    def _refuse(self, call: str) -> NoReturn:
        if isinstance(self.sync_session, _Ended):
            raise JobEnded(self._job_id)
        raise NotAllowedInJob(call)


class _Ended:
    """Takes the place of the session when its job has ended: each use raises `JobEnded`."""

    def __init__(self, job_id: str) -> None:
        object.__setattr__(self, "_job_id", job_id)

    def __getattr__(self, name: str) -> NoReturn:
        raise JobEnded(object.__getattribute__(self, "_job_id"))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise JobEnded(object.__getattribute__(self, "_job_id"))

    def __contains__(self, _: object) -> NoReturn:
        raise JobEnded(object.__getattribute__(self, "_job_id"))

    def __iter__(self) -> NoReturn:
        raise JobEnded(object.__getattribute__(self, "_job_id"))


def _unshared(name: str) -> Callable[..., Any]:
    """The method, for a job that then can't share its transaction: the method may drop other jobs' deferred writes."""
    method = getattr(AsyncSession, name)

    @functools.wraps(method)
    def noted(self: JobSession, *args: Any, **more: Any) -> Any:
        self.lent = f"session.{name}()"
        return method(self, *args, **more)

    return noted


for _name in ("expire", "expire_all", "expunge", "expunge_all"):
    setattr(JobSession, _name, _unshared(_name))


def _refused(name: str) -> Callable[..., NoReturn]:
    def refuse(self: JobSession, *_: object, **__: object) -> NoReturn:
        self._refuse(f"session.{name}()")

    return refuse


def _refused_to_handlers(name: str) -> Callable[..., Any]:
    method = getattr(Session, name)

    @functools.wraps(method)
    def refuse(self: SyncSession, *args: Any, **more: Any) -> Any:
        if self.fence:
            raise NotAllowedInJob(f"session.{name}()")
        return method(self, *args, **more)

    return refuse


_ENDINGS = ("close", "commit", "invalidate", "prepare", "reset", "rollback")
for _name in _ENDINGS:
    setattr(SyncSession, _name, _refused_to_handlers(_name))
for _name in (*_ENDINGS, "aclose", "begin"):
    setattr(JobSession, _name, _refused(_name))


@event.listens_for(SyncSession, "before_commit")
def _refuse_commit(session: Session) -> None:
    """Refuse a handler's commit by the transaction's own method."""
    if getattr(session, "fence", None) and not session.in_nested_transaction():
        raise NotAllowedInJob("transaction.commit()")


@event.listens_for(SyncSession, "do_orm_execute")
def _write_what_waits(state: ORMExecuteState) -> None:
    """Flush deferred writes before plain SQL, which would not see them otherwise."""
    if not state.is_orm_statement and getattr(state.session, "waiting", None):
        state.session.flush()


@event.listens_for(SyncSession, "loaded_as_persistent")
@event.listens_for(SyncSession, "pending_to_persistent")
@event.listens_for(SyncSession, "detached_to_persistent")
def _meet(session: Session, entity: object) -> None:
    met = getattr(session, "met", None)
    if met is not None:
        met.append(entity)


@event.listens_for(SyncSession, "after_transaction_create")
def _mark(session: Session, transaction: SessionTransaction) -> None:
    if transaction.nested and isinstance(session, SyncSession) and session.gathered is not None:
        session.marks[transaction] = len(session.gathered)


@event.listens_for(SyncSession, "after_soft_rollback")
def _forget_entries(session: Session, transaction: SessionTransaction) -> None:
    """Drop the audit entries of changes that a rolled back savepoint undoes."""
    if isinstance(session, SyncSession) and session.gathered is not None:
        undone: SessionTransaction | None = transaction
        while undone and not undone.nested:  # that of a failed flush is a part of the savepoint
            undone = undone.parent
        mark = session.marks.get(undone) if undone else None
        del session.gathered[mark if mark is not None else len(session.gathered) :]
        # deferred rows were written before the savepoint began; they may not be locked any more
        (session.met or []).extend((session.waiting or {}).values())
        (session.waiting or {}).clear()


_FLUSH = AsyncSession.flush


def _alone(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Refuse a second task while the first one awaits the method."""

    @functools.wraps(method)
    async def guarded(self: LedgerqSession, *args: Any, **kwargs: Any) -> Any:
        task, user = asyncio.current_task(), self._user
        if user is not None and user is not task:
            raise SessionShared
        self._user = task
        try:
            sync: Any = self._proxied
            if (
                method is not _FLUSH
                and isinstance(self, JobSession)
                and sync.waiting
                and not sync.locking
            ):
                await _FLUSH(self)  # the method must see earlier changes, and not drop them
            return await method(self, *args, **kwargs)
        finally:
            self._user = user

    return guarded


for _name in (
    "connection",
    "delete",
    "execute",
    "flush",
    "get",
    "get_one",
    "merge",
    "refresh",
    "run_sync",
    "scalar",
    "scalars",
    "stream",
    "stream_scalars",
):
    setattr(LedgerqSession, _name, _alone(getattr(AsyncSession, _name)))
