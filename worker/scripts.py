"""The Lua scripts in `worker/lua/`, each read once."""

from functools import cache
from pathlib import Path

from redis.asyncio import Redis
from redis.commands.core import AsyncScript

_FOLDER = Path(__file__).parent / "lua"


def script(redis: Redis, name: str) -> AsyncScript:
    """A script ready to be called; Redis is sent its text when it does not know it yet."""
    return redis.register_script(_text(name))


@cache
def _text(name: str) -> str:
    return (_FOLDER / f"{name}.lua").read_text()
