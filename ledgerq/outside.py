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
from ledgerq.database.sqlstate import mark_foreign
from ledgerq.database.turns import reading_in_turn
from ledgerq.errors import InDoubt, InvalidRequest, InvalidResult, ResultTooLarge, StepUnusable
from ledgerq.runtime.calls import Calls
from ledgerq.store.audit import Origin
from ledgerq.store.step_records import StepRecords
from ledgerq.store.tables import JobStep, StepState
from ledgerq.text import one_line
from ledgerq.wire.answers import AnswerType, answer_type, type_like
from ledgerq.wire.result import storable_answer
from ledgerq.wire.step_names import StepLimits, StepNames

A = ParamSpec("A")
T = TypeVar("T")


class Outside(Generic[S]):
    """What a job's `outside` function gets, to work before the job's transaction, while no connection is held.

    The function's answer is the third argument of the job's handler, which runs afterwards. The function may wait as long
    as the job's `timeout` allows. `resources` is what `App(resources=)` yields, `origin` says who asked for the job.

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
        self._names, self._calls = StepNames(limits.steps, records.known), Calls(mark_foreign)
        self._cursors: dict[str, AnswerType[Any]] = {}
        self._one_page = asyncio.Lock()

    def key(self, name: str) -> str:
        """An idempotency key: 32 hex digits, the same in each attempt of this job with this payload, another one for each name."""
        return self._records.key(name)

    async def read(
        self,
        function: Callable[Concatenate[LedgerqSession, A], Awaitable[T]],
        /,
        *args: A.args,
        **kwargs: A.kwargs,
    ) -> T:
        """Call the function with a new session and return its answer. The function's writes are rolled back."""
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
            InDoubt: with `at_most_once`: the call raised an error, or an earlier attempt began it and recorded no answer.
            InvalidRequest: the name is not valid, is a cursor's or was used in this run; or the job has too many steps.
            StepUnusable: the step was done, but its answer is no JSON, too large or not of its type; it is not done again.
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
        /,
        *args: A.args,
        **kwargs: A.kwargs,
    ) -> T:
        """Call the function in a transaction of its own, now: its rows, its audit entries and its answer commit together.

        So it is done exactly once: a later attempt returns the recorded answer. The first argument is a `JobContext`.
        The function may begin no other step: its record might wait for the end of this transaction.

        Raises:
            InvalidRequest: the name is not valid, is a cursor's or was used in this run; the job has too many steps; or this
                is in the transaction of another step.
            InvalidResult, ResultTooLarge: the answer is no JSON, or too large; the transaction is rolled back.
        """
        self._names.take(name)
        kind: AnswerType[T] = answer_type(function)
        if (recorded := self._records.known.get(name)) is not None:
            return self._answer(kind, recorded)

        async def work(session: LedgerqSession) -> Any:
            with self._names.in_transaction_of(name):
                answer = await function(self._context(session), *args, **kwargs)
            return storable_answer(answer, self._limits.answer, kind)

        return self._answer(kind, await self._records.in_transaction(name, work))

    def cursor(self, name: str, start: T, *, type: Any = None) -> T:  # noqa: A002 - as in pydantic
        """Begin a loop: returns the value to which `advance` has moved this cursor in earlier attempts; else `start`.

        `type` is the type of the values, for example `tuple[datetime, int]`; None is the class of `start`.
        """
        self._names.take_for_cursor(name)
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
        /,
        *args: A.args,
        **kwargs: A.kwargs,
    ) -> None:
        """Call the function with a `JobContext`, for a page of a loop, and set the cursor to `value`; both commit, or none.

        ```python
        page = outside.cursor("pages", start=0)
        while rows := await outside.call(fetch, page):
            page += 1
            await outside.advance("pages", page, add_rows, rows)
        ```

        Raises:
            JobIsOver: the job has ended, or another worker has moved the cursor.
            InvalidRequest, InvalidResult, ResultTooLarge: `cursor(name)` was not called in this run; or `value` is the old
                one, does not survive JSON or is too large. Nothing is committed.
        """
        self._names.require_step_possible(name)
        if (kind := self._cursors.get(name)) is None:
            raise InvalidRequest(
                f"cursor {name}", "is not there; call outside.cursor(…) before the loop"
            )

        async def work(session: LedgerqSession) -> None:
            with self._names.in_transaction_of(name):
                await function(self._context(session), *args, **kwargs)

        kept = storable_answer(value, self._limits.answer, kind)
        if not kind.keeps(value, kept):
            problem = "its value is another one after JSON; name its type: cursor(…, type=)"
            raise InvalidRequest(f"cursor {name}", problem)
        async with self._one_page:  # pages of one job are done one after another
            self._names.require_step_possible(name)  # the function may have ended meanwhile
            await self._records.advance(name, kept, work)

    async def progress(self, done: int, of: int | None = None, note: str | None = None) -> None:
        """Report progress for `ledgerq job`. A report within 1 s of the last written one is dropped, unless `done == of`."""
        await self._records.tell_progress(done, of, note)

    async def close(self) -> None:
        """For the worker, after the `outside` function: refuse new steps, cancel calls that still run, wait 3 s at most."""
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
            return None, f"makes all answers larger than {limit:,} bytes (LEDGERQ_MAX_ANSWERS)"
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
