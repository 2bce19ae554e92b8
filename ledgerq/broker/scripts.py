"""The Lua scripts in `lua/`, each read once. The keys of `FOR_SCRIPTS` and `owner.lua` are put before each script."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha1
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from ledgerq.broker.keys import FOR_SCRIPTS

_FOLDER = Path(__file__).parent / "lua"


@dataclass(frozen=True, slots=True)
class Script:
    """A script ready to be called, by its hash. The text is sent only if Redis does not know the script."""

    redis: Redis
    text: str
    sha: str

    async def __call__(
        self, keys: Sequence[str | bytes] = (), args: Sequence[bytes | str | float] = ()
    ) -> Any:
        """Run the script. If Redis does not know the script, a single command sends and runs its text."""
        try:
            return await self.redis.evalsha(self.sha, len(keys), *keys, *args)  # type: ignore[misc, arg-type]
        except NoScriptError:
            return await self.redis.eval(self.text, len(keys), *keys, *args)  # type: ignore[misc, arg-type]


def script(redis: Redis, name: str) -> Script:
    """The script in the file `lua/<name>.lua`."""
    return script_of(redis, _text(name))


def script_of(redis: Redis, text: str) -> Script:
    """A script with this text. Redis gets it when it is called first."""
    return Script(redis, text, _digest(text))


@cache
def _digest(text: str) -> str:
    return sha1(text.encode(), usedforsecurity=False).hexdigest()


@cache
def _text(name: str) -> str:
    owner, own = ((_FOLDER / f"{each}.lua").read_text() for each in ("owner", name))
    first, rest = own.split("\n", 1) if own.startswith("#!") else ("", own)
    names, values = ", ".join(FOR_SCRIPTS), ", ".join(map(repr, FOR_SCRIPTS.values()))
    return f"{first}\nlocal {names} = {values}\n{owner}{rest}".lstrip("\n")
