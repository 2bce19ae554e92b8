"""The settings of Redis and of the default queue."""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from ledgerq.broker.redis_url import understood
from ledgerq.settings import PREFIX, Settings
from ledgerq.wire.queue_name import checked_key


class BrokerConfig(Settings):
    """The settings that a producer needs: the URL of Redis, and the key of the default queue.

    ```python
    config = BrokerConfig(redis_url="redis://localhost:6379/0", queue="shop:queue")
    ```
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    if TYPE_CHECKING:  # else type checkers ask for fields that the environment has

        def __init__(self, **given: Any) -> None: ...

    redis_url: Annotated[SecretStr, AfterValidator(understood)] = Field(
        validation_alias="REDIS_URL",
        description="a URL such as redis://:password@host:6379/0, rediss://… or unix:///path",
    )
    queue: Annotated[str, AfterValidator(checked_key)] = Field(
        default="arq:queue",
        min_length=1,
        max_length=200,
        description="the default queue's key on Redis, as in arq: 1 to 200 characters",
    )
