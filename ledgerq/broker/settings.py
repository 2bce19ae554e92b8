"""Where the queue is."""

from typing import Annotated

from arq.constants import (
    abort_jobs_ss,
    health_check_key_suffix,
    in_progress_key_prefix,
    job_key_prefix,
    result_key_prefix,
    retry_key_prefix,
)
from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from ledgerq.broker.redis_url import understood
from ledgerq.settings import PREFIX, Settings

_NO_QUEUES = (  # keys that are something else, ours or arq's
    *(job_key_prefix, in_progress_key_prefix, result_key_prefix, retry_key_prefix),
    *(abort_jobs_ss, "ledgerq:"),
)


def _queue(key: str) -> str:
    if not key.isprintable() or " " in key or "|" in key or key.strip("\"'") != key:
        raise ValueError("holds a blank, a control character, a | or a quotation mark at an end")
    if key.startswith(_NO_QUEUES) or key.endswith(health_check_key_suffix):
        raise ValueError("is the name of a key that ledgerq or arq use for something else")
    return key


class BrokerConfig(Settings):
    """What a producer needs: Redis, and the name of the queue."""

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    redis_url: Annotated[SecretStr, AfterValidator(understood)] = Field(
        validation_alias="REDIS_URL",
        description="a URL such as redis://:password@host:6379/0, rediss://… or unix:///path",
    )
    queue: Annotated[str, AfterValidator(_queue)] = Field(
        default="arq:queue",
        min_length=1,
        max_length=200,
        description="the queue's key on Redis, as in arq: 1 to 200 characters",
    )
