"""Keeps an async context manager open between two calls: one function enters it, another leaves it."""

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any


class Held:
    """Keeps a context manager open. One task enters and leaves it, because anyio's task groups require that."""

    def __init__(self, manager: AbstractAsyncContextManager[Any]) -> None:
        self._manager = manager
        self._over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def enter(self) -> Any:
        """Enter the context manager; answers with the value that it yields. Raises what it raises while it is entered."""
        entered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._hold(entered))
        await asyncio.wait({entered, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if not entered.done():
            self._task.result()  # it has raised
        return entered.result()

    async def leave(self) -> None:
        """Leave the context manager, and wait until it is closed. Its errors are raised here."""
        self._over.set()
        if self._task:
            await self._task

    async def _hold(self, entered: "asyncio.Future[Any]") -> None:
        async with self._manager as held:
            entered.set_result(held)
            await self._over.wait()
