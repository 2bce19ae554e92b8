"""A worker whose jobs call an outside party over HTTP: `python -m tests.acceptance.outside_jobs`; and the party."""

import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

import httpx

from db import projects
from db.inputs import NewProject
from ledgerq import JobContext, Outside, Payload, job
from tests.acceptance.own_worker import run_worker_of
from tests.answering import answering
from worker.app import app


class Party:
    """Performs each effect once for an idempotency key, and counts calls. It answers when it is let."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.effects: Counter[str] = Counter()
        self.held = set[str]()
        self.asked, self.let_go = threading.Condition(), threading.Event()

    def perform(self, name: str, key: str) -> dict[str, Any]:
        with self.asked:
            self.calls[name] += 1
            if not any(each.startswith(f"{key}:") for each in self.effects):
                self.effects[f"{key}:{name}"] += 1
            self.asked.notify_all()
        if name in self.held:
            self.let_go.wait(60)
        return {"name": name, "key": key}

    def answer_held(self) -> None:
        """Answer what is held now; what is asked for later is held again."""
        now, self.let_go = self.let_go, threading.Event()
        now.set()

    def wait_for(self, name: str, times: int = 1) -> None:
        """Wait until the effect was asked for so often."""
        with self.asked:
            assert self.asked.wait_for(lambda: self.calls[name] >= times, 30), self.calls


@contextmanager
def party() -> Iterator[tuple[Party, str]]:
    """The party and its URL."""
    it = Party()
    with answering(
        lambda path, headers: (200, it.perform(path.strip("/"), headers["Idempotency-Key"]))
    ) as url:
        try:
            yield it, url
        finally:
            it.let_go.set()


class Order(Payload[int], kind="order"):
    """What is to be done at the party, step by step."""

    url: str
    steps: list[str]
    at_most_once: bool = False


async def ask(client: httpx.AsyncClient, url: str, *, key: str) -> dict[str, Any]:
    answer = await client.post(url, headers={"Idempotency-Key": key}, timeout=60)
    return dict(answer.raise_for_status().json())


async def go_through(outside: Outside[httpx.AsyncClient], order: Order) -> list[str]:
    answers = [
        await outside.step(
            name, ask, outside.resources, f"{order.url}/{name}", key=outside.key(name), at_most_once=order.at_most_once
        )
        for name in order.steps
    ]  # fmt: skip
    await outside.progress(len(answers), of=len(answers))
    return [each["key"] for each in answers]


@job(outside=go_through, timeout=60)
async def order(context: JobContext[httpx.AsyncClient], order: Order, keys: list[str]) -> int:
    project = await projects.create(context.session, context.origin, NewProject(name=keys[-1]))
    return project.id


class Import(Payload[list[int]], kind="import"):
    """So many pages are fetched at the party, one after another."""

    url: str
    pages: int


async def fetch_pages(outside: Outside[httpx.AsyncClient], pages: Import) -> int:
    for page in range(1, pages.pages + 1):
        name = f"page-{page}"
        await outside.call(ask, outside.resources, f"{pages.url}/{name}", key=outside.key(name))
        await outside.progress(page, of=pages.pages, note=name)
    return pages.pages


@job(outside=fetch_pages, timeout=60)
async def import_pages(
    context: JobContext[httpx.AsyncClient], pages: Import, fetched: int
) -> list[int]:
    await projects.create(context.session, context.origin, NewProject(name=f"{fetched} pages"))
    return [fetched, context.origin.attempt or 0]


class Block(Payload[None], kind="block"):
    """Blocks the event loop in a step."""

    seconds: float


async def block_loop(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251 - the fault


async def block_in_step(outside: Outside[httpx.AsyncClient], block: Block) -> None:
    await outside.step("block", block_loop, block.seconds)


@job(outside=block_in_step, timeout=60)
async def block(context: JobContext[httpx.AsyncClient], block: Block, nothing: None) -> None:
    """Nothing is left to do."""


@asynccontextmanager
async def resources() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client


APP = replace(
    app,
    jobs=[order, import_pages, block],
    schedule=[],
    forget_ended_jobs=False,
    resources=resources,
)


if __name__ == "__main__":
    run_worker_of(APP)
