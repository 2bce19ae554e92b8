"""A TCP proxy that breaks connections on request: cut at a byte, stalled, mute, slow or refused.

It runs in a thread of its own. Its methods may be called from any thread.
"""

import asyncio
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal, TypeVar

T = TypeVar("T")
How = Literal["rst", "fin"]
Upstream = tuple[str, int] | Path

_NAME = re.compile(
    rb"ledgerq:[^:\s\0]+:[0-9a-f]+:\d+:[0-9a-f]+"
)  # see ledgerq.runtime.process_name
_LINGER_NOT = struct.pack("ii", 1, 0)  # closing then sends RST


@dataclass(eq=False, slots=True)
class Link:
    """One connection through the proxy."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    budget: int | None = None  # bytes, both ways, until it is cut
    how: How = "rst"
    mute: bool = False  # what the server answers is swallowed
    caller: str = ""  # the name of the process, once it has said it

    def hear(self, data: bytes) -> None:
        """Learn who calls: clients say their name first."""
        if not self.caller and (said := _NAME.search(data)):
            self.caller = said[0].decode()

    def cut(self) -> None:
        """Break it, both ways."""
        for writer in (self.client, self.server):
            sock = writer.get_extra_info("socket")
            if self.how == "rst":
                with suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
                writer.transport.abort()
            else:
                writer.close()


@dataclass(eq=False)
class Hop:
    """The way from the workers to one server."""

    name: str
    upstream: Upstream
    _loop: asyncio.AbstractEventLoop
    port: int = 0
    fired: list[tuple[float, str]] = field(default_factory=list)  # when a cut came, and to whom
    _links: list[Link] = field(default_factory=list)
    _open: asyncio.Event = field(default_factory=asyncio.Event)
    _delay: float = 0.0
    _refusing: bool = False
    _server: asyncio.Server | None = None

    def cut(self, random: Random, how: How, within: int) -> None:
        """Cut one connection after some number of further bytes, at most `within`."""
        place, budget = random.random(), random.randrange(within)

        def choose() -> None:
            whole = [link for link in self._links if link.budget is None and not link.mute]
            if whole:
                link = whole[int(place * len(whole))]
                link.budget, link.how = budget, how

        self._call(choose)

    def cut_all(self, how: How = "rst", caller: str = "") -> None:
        """Break every connection now, or every one of that process."""

        def cut() -> None:
            for link in list(self._links):
                if not caller or link.caller == caller:
                    link.how = how
                    link.cut()

        self._call(cut)

    def half_open(self, random: Random, share: float) -> None:
        """From now on some of the connections get no answers; new ones do."""
        chosen = random.random()

        def mute() -> None:
            picks = Random(chosen)
            for link in self._links:
                link.mute = link.mute or picks.random() < share

        self._call(mute)

    def stall(self) -> None:
        """Hold everything back, until `resume`."""
        self._call(self._open.clear)

    def delay(self, seconds: float) -> None:
        """Each piece of data is that late; 0 ends it."""
        self._delay = seconds

    def refuse(self) -> None:
        """Take no new connection and break the old ones, until `resume`."""
        self._refusing = True
        self.cut_all()

    def resume(self) -> None:
        """As if nothing had been; mute connections stay mute, as a broken network leaves them."""
        self._refusing, self._delay = False, 0.0
        self._call(self._open.set)

    def _call(self, change: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(change)

    async def listen(self) -> None:
        """Take connections on a free port of this machine."""
        self._open.set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Take no more connections, and break those that there are."""
        assert self._server
        self._server.close()
        while self._links:
            for link in list(self._links):
                link.cut()
            await asyncio.sleep(0.01)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        try:
            if isinstance(self.upstream, Path):
                there = await asyncio.open_unix_connection(str(self.upstream))
            else:
                there = await asyncio.open_connection(*self.upstream)
        except OSError:
            writer.transport.abort()
            return
        link = Link(writer, there[1])
        self._links.append(link)
        try:
            await asyncio.gather(
                self._pump(reader, there[1], link, back=False),
                self._pump(there[0], writer, link, back=True),
            )
        finally:
            self._links.remove(link)
            for each in (writer, there[1]):
                each.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        link: Link,
        *,
        back: bool,
    ) -> None:
        try:
            while data := await reader.read(65536):
                if self._delay:
                    await asyncio.sleep(self._delay)
                await self._open.wait()
                link.hear(data)
                if link.mute and back:
                    continue
                if link.budget is not None and len(data) >= link.budget:
                    writer.write(data[: link.budget])
                    self.fired.append((time.time(), link.caller))
                    link.cut()
                    return
                if link.budget is not None:
                    link.budget -= len(data)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            for each in (link.client, link.server):
                each.close()


class Proxy:
    """The thread and its hops."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="proxy")
        self.hops: dict[str, Hop] = {}

    def hop(self, name: str, upstream: Upstream) -> Hop:
        """A new way to a server."""

        async def build() -> Hop:
            hop = Hop(name, upstream, self._loop)
            await hop.listen()
            return hop

        self.hops[name] = made = self._run(build())
        return made

    def resume(self) -> None:
        """Heal every hop."""
        for hop in self.hops.values():
            hop.resume()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


@contextmanager
def proxy() -> Iterator[Proxy]:
    """A proxy for the length of the block."""
    made = Proxy()
    made._thread.start()
    try:
        yield made
    finally:
        for hop in made.hops.values():
            made._run(hop.close())
        made._loop.call_soon_threadsafe(made._loop.stop)
        made._thread.join(5)
        made._loop.close()
