"""Work outside of the database: what the `outside` function of a job is given.

```python
async def find_address(outside: Outside[Clients], send: SendInvoice) -> str:
    order = await outside.read(order_of, send.order_id)  # a session of its own, closed again
    return await outside.step("address", outside.resources.address_of, order.customer)

@job(outside=find_address, timeout=300)
async def send_invoice(context: JobContext[Clients], send: SendInvoice, address: str) -> None:
    order = await context.session.get_one(Order, send.order_id)  # the one transaction, as ever
    order.status = f"invoice sent to {address}"
```
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Concatenate, Generic, ParamSpec, overload

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json
from typing_extensions import TypeVar

from ledgerq.context import JobContext, S
from ledgerq.database.session import JobSession, LedgerqSession
from ledgerq.database.sqlstate import FOREIGN
from ledgerq.database.turns import reading_in_turn
from ledgerq.errors import InDoubt, InvalidRequest, InvalidResult, ResultTooLarge, StepUnusable
from ledgerq.runtime.calls import Calls
from ledgerq.store.audit import Origin
from ledgerq.store.step_records import StepRecords
from ledgerq.store.tables import JobStep, StepState
from ledgerq.text import leaves, one_line
from ledgerq.wire.answers import AnswerType, answer_type, type_like
from ledgerq.wire.result import storable_answer
from ledgerq.wire.step_names import StepLimits, StepNames

A = ParamSpec("A")
T = TypeVar("T")


class Outside(Generic[S]):
    """Outside of the transaction: no transaction is open, no connection to the database is held.

    A job's `outside` function runs before its handler, which takes its answer as third argument. It may wait as long as
    the job's `timeout` allows. `resources` is what `App(resources=)` yields, `origin` says who asked for the job.

    ```python
    address = await outside.step("address", outside.resources.address_of, order.customer)
    ```
    """

    def __init__(
        self, origin: Origin, resources: S, records: StepRecords, limits: StepLimits
    ) -> None:
        assert origin.job_id  # noqa: S101 - a job has one
        self.job_id, self.attempt = origin.job_id, origin.attempt or 1
        self.origin, self.resources = origin, resources
        self._records, self._limits = records, limits
        self._kept = sum(len(to_json(each.result)) for each in records.known.values())
        self._names, self._calls = StepNames(limits.steps, records.known), Calls(_mark_foreign)
        self._cursors: dict[str, AnswerType[Any]] = {}
        self._one_page = asyncio.Lock()

    def key(self, name: str) -> str:
        """An idempotency key: 32 hex digits, the same in each attempt of this job with this payload, another one for each name."""
        return self._records.key(name)

    async def read(
        self,
        function: Callable[Concatenate[LedgerqSession, A], Awaitable[T]],
        *args: A.args,
        **kwargs: A.kwargs,
    ) -> T:
        """What the function reads, in a session that is opened for it and closed again. What it writes is not kept."""
        async with reading_in_turn(self._records.sessions) as session:
            given = JobSession(session, self.job_id)  # which can't commit
            try:
                return await function(given, *args, **kwargs)
            finally:
                given.end()

    @overload
    async def call(
        self, function: Callable[..., Awaitable[T]], /, *args: Any, timeout: float | None = None, **kwargs: Any  # noqa: ASYNC109 - as below
    ) -> T: ...  # fmt: skip

    @overload
    async def call(
        self, function: Callable[..., T], /, *args: Any, timeout: float | None = None, **kwargs: Any  # noqa: ASYNC109 - as below
    ) -> T: ...  # fmt: skip

    async def call(
        self,
        function: Callable[..., Any],
        /,
        *args: Any,
        timeout: float | None = None,  # noqa: ASYNC109 - it names the call
        **kwargs: Any,
    ) -> Any:
        """Call a function outside of the database; answers with what it returns. The next attempt calls it again.

        Args:
            function: a plain `def` runs in a thread.
            args: for the function.
            kwargs: for the function.
            timeout: in seconds; None is as long as the job may take. A thread can't be stopped: it is left to its end.

        Raises:
            TimeoutError: it took longer; names the function.
        """
        return await self._calls.make(timeout, function, *args, **kwargs)

    @overload
    async def step(
        self, name: str, function: Callable[..., Awaitable[T]], /, *args: Any, timeout: float | None = None,  # noqa: ASYNC109 - as below
        at_most_once: bool = False, **kwargs: Any,
    ) -> T: ...  # fmt: skip

    @overload
    async def step(
        self, name: str, function: Callable[..., T], /, *args: Any, timeout: float | None = None,  # noqa: ASYNC109 - as below
        at_most_once: bool = False, **kwargs: Any,
    ) -> T: ...  # fmt: skip

    async def step(
        self,
        name: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        timeout: float | None = None,  # noqa: ASYNC109 - as above
        at_most_once: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Call something outside, and record what it answers: a later attempt of the job reads the record and does not call.

        The call is made at least once: a worker that dies between the answer and its record leaves no record. The answer
        is what JSON would give back, in the type that the function's annotation names, in the first attempt too.

        Args:
            name: of the step, 1 to 100 printable characters. A job uses it once: in a loop, number the names.
            function: is called with the other arguments; a plain `def` runs in a thread.
            args: for the function.
            kwargs: for the function.
            timeout: of the call, in seconds; None is as long as the job may take.
            at_most_once: for a side without idempotency keys: the intent is committed before the call. If no answer is
                recorded after it, the job is buried as `in_doubt`, and a person decides.

        Raises:
            InDoubt: the call of a step that is called at most once may have been made.
            InvalidRequest: the name was used before in this run, or can't be one; or there are too many steps.
            StepUnusable: the answer can't be kept: it is no JSON, or too large. The step counts as done.
            DefinitionError: the function's annotation names a type that JSON can't carry; nothing was called.
            TimeoutError: the call took longer than `timeout`.
        """
        self._names.take(name)
        kind: AnswerType[Any] = answer_type(function)
        if (recorded := self._records.known.get(name)) is not None:
            return self._answer(kind, recorded)
        begun = datetime.now(UTC)
        if (
            at_most_once
            and (found := await self._records.begin(name, begun)).state is not StepState.BEGUN
        ):
            return self._answer(kind, found)
        try:
            answer = await self._calls.make(timeout, function, *args, **kwargs)
        except Exception as error:
            if at_most_once:
                raise self._records.stop(InDoubt(name)) from error
            raise
        result, problem = self._storable(kind, answer)
        return self._answer(kind, await self._records.finish(name, begun, result, problem))

    async def transaction(
        self,
        name: str,
        function: Callable[Concatenate[JobContext[S], A], Awaitable[T]],
        *args: A.args,
        **kwargs: A.kwargs,
    ) -> T:
        """Do a step in the database that stands before the job's end: its rows, its entries and its record commit together.

        So it is done exactly once. The function is given a `JobContext`, as a handler is.

        Raises:
            InvalidRequest: as `step`.
            InvalidResult, ResultTooLarge: the answer can't be kept; nothing is.
        """
        self._names.take(name)
        kind: AnswerType[T] = answer_type(function)
        if (recorded := self._records.known.get(name)) is not None:
            return self._answer(kind, recorded)

        async def work(session: LedgerqSession) -> Any:
            answer = await function(self._context(session), *args, **kwargs)
            return storable_answer(answer, self._limits.answer, kind)

        return self._answer(kind, await self._records.in_transaction(name, work))

    def cursor(self, name: str, start: T, *, type: Any = None) -> T:  # noqa: A002 - as in pydantic
        """Where `advance` has left off, in an earlier attempt maybe; at first, the start.

        `type` is that of the values, if JSON does not tell: `tuple[datetime, int]`. None is the start's class.
        """
        self._names.take(name)
        kind: AnswerType[T] = type_like(start) if type is None else AnswerType(TypeAdapter(type))
        self._cursors[name] = kind
        recorded = self._records.known.get(name)
        if recorded is not None and recorded.state is not StepState.OPEN:
            raise InvalidRequest(f"cursor {name}", "was a step of this job; give it another name")
        return start if recorded is None else self._answer(kind, recorded)

    async def advance(
        self,
        name: str,
        value: Any,
        function: Callable[Concatenate[JobContext[S], A], Awaitable[object]],
        *args: A.args,
        **kwargs: A.kwargs,
    ) -> None:
        """Do a page of a loop in the database, and move its cursor to `value`: both commit together, or neither.

        ```python
        page = outside.cursor("pages", start=0)
        while rows := await outside.call(fetch, page):
            page += 1
            await outside.advance("pages", page, add_rows, rows)
        ```

        Raises:
            JobIsOver: the job has ended, or another worker has moved the cursor.
            InvalidRequest, InvalidResult, ResultTooLarge: the cursor can't have this value; nothing is kept.
        """
        kind = self._cursors.get(name)
        if kind is None:
            raise InvalidRequest(
                f"cursor {name}", "is not there; call outside.cursor(…) before the loop"
            )

        async def work(session: LedgerqSession) -> None:
            await function(self._context(session), *args, **kwargs)

        kept = storable_answer(value, self._limits.answer, kind)
        if not kind.keeps(value, kept):
            raise InvalidRequest(
                f"cursor {name}",
                "its value is another one after JSON; name its type: cursor(…, type=)",
            )
        async with self._one_page:  # pages of one job are done one after another
            await self._records.advance(name, kept, work)

    async def progress(self, done: int, of: int | None = None, note: str | None = None) -> None:
        """Tell how far the job is, for `ledgerq job`. At most one in a second is written, and the last one."""
        await self._records.tell_progress(done, of, note)

    async def close(self) -> None:
        """Cancel the calls that the function has left under way, and wait a moment for their ends: the next attempt may begin."""
        self._names.close()
        await self._calls.close()

    def _context(self, session: LedgerqSession) -> JobContext[S]:
        return JobContext(session, self.origin, datetime.now(UTC), self.resources)

    def _storable(self, kind: AnswerType[Any], answer: Any) -> tuple[Any, str | None]:
        """What is kept of the answer; or why it can't be."""
        try:
            result = storable_answer(answer, self._limits.answer, kind)
        except (InvalidResult, ResultTooLarge) as error:
            return None, one_line(error)
        self._kept += len(to_json(result))
        if self._kept > (limit := self._limits.answers):
            larger = "makes the answers of all steps larger than"
            return None, f"{larger} {limit:,} bytes (LEDGERQ_MAX_ANSWERS)"
        return result, None

    def _answer(self, kind: AnswerType[T], step: JobStep) -> T:
        if step.state is StepState.BEGUN:
            raise self._records.stop(InDoubt(step.name))
        if step.error is not None:
            raise self._records.stop(StepUnusable(step.name, step.error))
        if step.state is StepState.OPEN and step.name not in self._cursors:
            raise InvalidRequest(
                f"step {step.name}", "was a cursor of this job; give it another name"
            )
        try:
            return kind.from_json(step.result)
        except ValidationError as error:  # other code has recorded it, or the annotation is wrong
            told = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, told["loc"])) or "the top"
            problem = f"is not of its type: {told['msg']} at {place}"
            raise self._records.stop(StepUnusable(step.name, problem)) from None


def _mark_foreign(error: BaseException) -> None:
    """A step's errors are not this database's: another database's say nothing of it."""
    for each in leaves(error):
        each.__dict__.setdefault(FOREIGN, True)
