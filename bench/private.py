"""What the two places gain that use private parts of redis-py, `make bench-private`: each beside redis-py's own way.

The figures stand in comments beside that code, as ratios of one run.
"""

import asyncio
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from rich.console import Console

from ledgerq import BrokerConfig, embedded
from ledgerq.broker.connection import connect

COMMANDS, MESSAGES, ROUNDS = 5_000, 20_000, 5


async def main() -> None:
    """Print both ratios."""
    with TemporaryDirectory() as folder, embedded.redis(Path(folder)) as url:
        lean = connect(BrokerConfig(redis_url=url))
        plain: Any = Redis(connection_pool=ConnectionPool.from_url(url, socket_timeout=5))
        commands = [(await _commands(plain), await _commands(lean)) for _ in range(ROUNDS)]
        heaps = [
            (await _messages(plain, in_heaps=False), await _messages(plain, in_heaps=True))
            for _ in range(ROUNDS)
        ]
        await lean.aclose(close_connection_pool=True)
        await plain.aclose(close_connection_pool=True)
    say = Console(highlight=False).print
    say(f"commands one after another: {_ratio(commands):.2f} times as fast as redis-py")
    say(f"messages read in heaps: {_ratio(heaps):.0f} times as fast as one by one")


def _ratio(rounds: list[tuple[float, float]]) -> float:
    return median(theirs / ours for theirs, ours in rounds)


async def _commands(redis: Any) -> float:
    """Seconds of the process for as many commands."""
    await redis.set("bench", "x")
    began = time.process_time()
    for _ in range(COMMANDS):
        await redis.set("bench", "x")
    return time.process_time() - began


async def _messages(redis: Any, *, in_heaps: bool) -> float:
    """Seconds of the process to read as many messages of changed keys, as the notifier does or one by one."""
    pool: ConnectionPool = redis.connection_pool
    connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
    await connection.connect()  # type: ignore[no-untyped-call]
    await connection.send_command("SUBSCRIBE", "bench")
    await connection.read_response()
    reader, spent = connection._reader, 0.0  # noqa: SLF001 - it has no other way to read in heaps
    assert reader
    for _ in range(MESSAGES // 1_000):
        async with redis.pipeline(transaction=False) as pipe:
            for _ in range(1_000):
                pipe.publish("bench", "x")
            await pipe.execute()
        began = time.process_time()
        if in_heaps:
            left = 1_000
            while left > 0:
                left -= (await reader.read(65_536)).count(b"message")
        else:
            for _ in range(1_000):
                await connection.read_response()
        spent += time.process_time() - began
    await connection.disconnect()
    return spent


if __name__ == "__main__":
    asyncio.run(main())
