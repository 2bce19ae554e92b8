"""What the worker opens at its start and closes at its end, for all its jobs."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

TIMEOUT = httpx.Timeout(
    10, connect=3
)  # seconds; a job's step that has none of its own waits no longer


@dataclass(frozen=True)
class Mailbox:
    """A folder of mail to be sent. One name is one mail, so a job that is tried again sends nothing twice."""

    folder: Path

    async def put(self, name: str, to: str, text: str) -> None:
        """Write a mail, or write it again."""
        path = self.folder / f"{name}.eml"
        await asyncio.to_thread(path.write_text, f"To: {to}\n\n{text}\n")


@dataclass(frozen=True)
class Resources:
    """`context.resources` and `outside.resources` of each job."""

    mailbox: Mailbox
    payments: httpx.AsyncClient
    supplier: httpx.AsyncClient


@asynccontextmanager
async def open_resources() -> AsyncIterator[Resources]:
    """The mailbox is a folder; the payment service and the supplier are one process here, `partners.py`."""
    folder = Path(os.environ.get("SHOP_MAILBOX", "mailbox"))
    await asyncio.to_thread(folder.mkdir, exist_ok=True)
    partners = os.environ.get("SHOP_PARTNERS", "http://localhost:9000")
    async with (
        httpx.AsyncClient(base_url=partners, timeout=TIMEOUT) as payments,
        httpx.AsyncClient(base_url=partners, timeout=TIMEOUT) as supplier,
    ):
        yield Resources(Mailbox(folder), payments, supplier)
