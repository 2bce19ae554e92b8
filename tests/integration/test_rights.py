"""What a user of Redis must be allowed is asked beforehand, each command by its name."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as redis_sync
from redis.exceptions import NoPermissionError

from ledgerq import embedded
from ledgerq.admin import health
from ledgerq.broker import scripts
from ledgerq.broker.connection import connect, require_redis
from ledgerq.broker.requirements import OUTSIDE_SCRIPTS, missing
from ledgerq.config import Config, WorkerConfig
from ledgerq.errors import RedisRefuses

SCRIPTS = Path(scripts.__file__).parent / "lua"
OUTSIDE = {words[0] for words in OUTSIDE_SCRIPTS}
CALLED = re.compile(r"\b(?:redis\.p?call|guarded|try)\(\s*'([A-Z]+)'")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis whose users these tests make."""
    with embedded.redis(tmp_path_factory.mktemp("rights")) as url:
        yield url


def limited(server: str, *rules: str) -> WorkerConfig:
    """As a user with these rights."""
    with redis_sync.Redis.from_url(server) as admin:
        words = ("ACL", "SETUSER", "limited", "reset", "on", ">hunter2", *rules)
        admin.execute_command(*words)
    return WorkerConfig(redis_url=server.replace("://", "://limited:hunter2@"))


def test_the_probe_tries_each_command_of_the_scripts() -> None:
    """A command that a script calls is tried inside a script, or outside of them."""
    called = {path.stem: set(CALLED.findall(path.read_text())) for path in SCRIPTS.glob("*.lua")}
    tried = called.pop("probe") | OUTSIDE
    assert "TIME" in set().union(*called.values())
    assert {name: there - tried for name, there in called.items() if there - tried} == {}


@pytest.mark.parametrize("command", [*sorted(OUTSIDE - {"CLIENT", "SUBSCRIBE"}), "HGET"])
async def test_each_missing_command_is_named_once(
    server: str, config: Config, command: str
) -> None:
    """At the start, which is refused, and by health."""
    mine = limited(server, "~*", "&*", "+@all", f"-{command.lower()}")
    redis = connect(mine)
    with pytest.raises(RedisRefuses, match=rf"SETUSER limited \+{command.lower()}$"):
        await require_redis(redis)
    assert [each.cure for each in await missing(redis)] == [
        f"ACL SETUSER limited +{command.lower()}"
    ]
    await redis.aclose(close_connection_pool=True)
    checks = {each.name: each for each in await health.check(Config(mine, config.database))}
    assert not checks["redis"].ok
    assert checks["redis"].detail.count(f"+{command.lower()}") == 1


@pytest.mark.parametrize("rule", ["-subscribe", "resetchannels"])
async def test_a_right_to_listen_that_is_missing_is_a_note(
    server: str, config: Config, rule: str
) -> None:
    """The worker starts, and asks every now and then; health says why."""
    mine = limited(server, "~*", "&*", "+@all", rule)
    redis = connect(mine)
    await require_redis(redis)
    await redis.aclose(close_connection_pool=True)
    checks = {each.name: each for each in await health.check(Config(mine, config.database))}
    assert checks["redis"].ok
    assert checks["wake"].warn
    assert re.search(r"SETUSER limited (\+subscribe|&__redis__:invalidate)", checks["wake"].detail)


async def test_a_refusal_that_nobody_named_fails_the_check(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is missing by name, and Redis refuses all the same."""

    async def refused(*_: object) -> list[str]:
        raise NoPermissionError("no permissions to run the 'zrangebyscore' command")

    monkeypatch.setattr(health, "living_workers", refused)
    redis_checks = [each for each in await health.check(config) if each.name == "redis"]
    assert [each.ok for each in redis_checks] == [False]
    assert "zrangebyscore" in redis_checks[0].detail
