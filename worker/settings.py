"""What the task manager's worker reads from the environment, beside ledgerq's own settings."""

import binascii
from base64 import b64decode
from typing import Annotated

from pydantic import Field, HttpUrl, SecretStr, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from ledgerq.settings import Settings

_PREFIX_OF_SECRETS = "whsec_"
_SIZE_OF_KEYS = range(24, 65)  # bytes, as Standard Webhooks has it


class WebhookSettings(Settings):
    """The webhook that hears of assignments. Without a URL there is none."""

    model_config = SettingsConfigDict(env_prefix="TASKMANAGER_WEBHOOK_")

    url: Annotated[HttpUrl | None, Field(repr=False)] = Field(  # such a URL may be a secret itself
        default=None, description="a URL that begins with https:// or http://"
    )
    secret: SecretStr | None = Field(
        default=None,
        validate_default=True,
        description="whsec_ and the base64 of 24 to 64 random bytes; or to two of them with a blank between, to replace one",
    )
    timeout: float = Field(
        default=15, gt=0, le=30, description="seconds for one call, more than 0 and at most 30"
    )

    @field_validator("secret")
    @classmethod
    def _goes_with_a_url(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if "url" in info.data and (secret is None) != (info.data["url"] is None):
            raise ValueError("goes with TASKMANAGER_WEBHOOK_URL, and one of the two is not set")
        _keys(secret)
        return secret

    @property
    def keys(self) -> list[bytes]:
        """The keys with which each event is signed."""
        return _keys(self.secret)


def _keys(secret: SecretStr | None) -> list[bytes]:
    """The keys of a secret.

    Raises:
        ValueError: it is no secret of Standard Webhooks. The error does not repeat it.
    """
    keys = []
    for each in secret.get_secret_value().split() if secret else ():
        try:
            key = b64decode(each.removeprefix(_PREFIX_OF_SECRETS), validate=True)
        except binascii.Error:
            key = b""
        if not each.startswith(_PREFIX_OF_SECRETS) or len(key) not in _SIZE_OF_KEYS:
            raise ValueError("is no secret of a webhook")
        keys.append(key)
    return keys
