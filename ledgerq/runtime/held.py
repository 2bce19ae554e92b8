"""Keeps an async context manager open from one function to another, in a task of its own."""

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any


class Held:
    """An open context manager. One task enters and leaves it: anyio's task groups, inside many clients, insist on that."""

    def __init__(self, manager: AbstractAsyncContextManager[Any]) -> None:
        self._manager = manager
        self._over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def enter(self) -> Any:
        """What the context manager yields. Raises what it raises."""
        entered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._hold(entered))
        await asyncio.wait({entered, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if not entered.done():
            self._task.result()  # it has raised
        return entered.result()

    async def leave(self) -> None:
        """Leave it, and wait for that. Raises what it raises."""
        self._over.set()
        if self._task:
            await self._task

    async def _hold(self, entered: "asyncio.Future[Any]") -> None:
        async with self._manager as held:
            entered.set_result(held)
            await self._over.wait()
