"""Seeded bugs of what is around the flow: its guests, their errors and databases, other queues on the same Redis."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import ledgerq.broker.scripts
import ledgerq.execution.handlers
import ledgerq.execution.process
from ledgerq.database import fence
from ledgerq.database.fence import Fence
from ledgerq.errors import Disconnected, LedgerqError
from ledgerq.execution.containment import HandlerMisbehaved
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.outcome import Buried, Retry
from ledgerq.execution.retry import Policy, decide


def replace(owner: object, **new: Any) -> None:
    """Set functions of a module or a class to others."""
    for name, function in new.items():
        setattr(owner, name, function)


def fence_not_put_up() -> None:
    """A handler is given the session itself: it can end its transaction, and nobody looks afterwards."""

    async def run(self: Fence, job_id: str, handle: Callable[[Any], Awaitable[Any]]) -> Any:
        return await handle(self._session)

    replace(Fence, run=run)


def context_shared() -> None:
    """Handlers run in the worker's own context: the next job sees what one has set there."""

    async def run(work: Callable[[], Awaitable[Any]], bound: Mapping[str, Any]) -> Any:
        return await work()

    replace(ledgerq.execution.handlers, run_apart=run)


def mute_error_for_ever() -> None:
    """Whether a job is given up is asked of the text of its error: one that has none is tried again for ever."""

    def unguarded(error: BaseException, delivery: Delivery, policy: Policy) -> Retry | Buried:
        try:
            str(error.error if isinstance(error, HandlerMisbehaved) else error)
        except Exception:  # noqa: BLE001 - the bug
            return Retry(0, error)
        return decide(error, delivery, policy)

    replace(ledgerq.execution.process, decide=unguarded)


def second_database_believed_ours() -> None:
    """Any database's lost connection is an interruption, that of the handler's own too: no attempt is spent."""

    def mark_nothing(self: Fence, error: BaseException) -> None:
        pass

    replace(Fence, _mark_foreign=mark_nothing)


def silence_is_interruption() -> None:
    """A handler that was silent until the database hung up is given back, with no attempt spent."""

    def lost(self: Fence) -> LedgerqError | None:
        return Disconnected() if fence.is_closed(self._driver) else None

    replace(Fence, lost=property(lost))


def body_of_other_queue_overwritten() -> None:
    """An id counts as free if it is not on this queue: the body of another queue's job is lost."""
    _in_script("enqueue", "elseif not named or is_held(named, id) then", "elseif false then")


def body_of_other_queue_run() -> None:
    """A body is run by the queue that finds it, whatever queue it names."""
    _in_script("claim", "if string.sub(body, -#mark) ~= mark then", "if false then")


def _in_script(name: str, good: str, bad: str) -> None:
    text_of = ledgerq.broker.scripts._text

    def careless(asked: str) -> str:
        text = text_of(asked)
        if asked != name:
            return text
        assert good in text, f"{name}.lua was changed: seed this bug anew"
        return text.replace(good, bad)

    replace(ledgerq.broker.scripts, _text=careless)


GUESTS = (
    fence_not_put_up, context_shared, mute_error_for_ever, second_database_believed_ours,
    silence_is_interruption,
)  # fmt: skip
QUEUES = (body_of_other_queue_overwritten, body_of_other_queue_run)

AROUND = (*GUESTS, *QUEUES)
