"""Reads settings from the environment. The error for a wrong one names the variable, the problem and the cure.

```python
class ShopSettings(Settings):
    payment_url: str = Field(validation_alias="SHOP_PAYMENT_URL")

settings = load(ShopSettings)
```
"""

import difflib
import os
import re
import stat
import string
from typing import Any, TypeVar

from pydantic import AliasChoices, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from ledgerq.errors import SettingError

PREFIX = "LEDGERQ_"  # begins the name of each environment variable of ledgerq

S = TypeVar("S", bound=BaseSettings)

FILE = "_FILE"  # DATABASE_URL_FILE names a file that holds what DATABASE_URL would
_LARGEST_FILE = 65_536
_COPIED_ALONG = string.whitespace + "\x85\xa0\u200b\u2028\u2029\u2060\ufeff"  # cut off both ends
# What Kubernetes and Docker tell every container about a service or container named like us:
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_LINKS = (
    (r"_SERVICE_HOST", r"[\w.:-]+"),
    (r"_SERVICE_PORT(_[A-Z0-9_]+)?", r"\d+"),
    (r"_PORT(_\d+_(TCP|UDP|SCTP))?", r"(tcp|udp|sctp)://.+"),
    (r"_PORT_\d+_(TCP|UDP|SCTP)_(PORT|PROTO|ADDR)", r"[\w.:-]+"),
    (r"_NAME", r"/.+/.+"),
)


class Settings(BaseSettings):
    """Settings that are read from the environment or, with `…_FILE`, from files. Blanks around a value are cut off."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", populate_by_name=True, hide_input_in_errors=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - not read: ours is
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - not read: ours is
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - not read: ours is
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The caller's arguments come first, then our reader of the environment, whose errors name the variable."""
        return init_settings, _Environment(settings_cls)


class _Environment(PydanticBaseSettingsSource):
    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The value from the environment, or None."""
        return _read(_variable(self.settings_cls, field_name, field)), field_name, False

    def __call__(self) -> dict[str, Any]:
        """The values of all fields that the caller has not given and the environment has."""
        found = {}
        for name, field in self.settings_cls.model_fields.items():
            if not self.current_state.keys() & {name, *_aliases(field)}:
                found[name] = self.get_field_value(field, name)[0]
        return {name: value for name, value in found.items() if value is not None}


def load(kind: type[S], **given: Any) -> S:
    """Read settings of this class from the environment; a value in `given` replaces the variable's.

    Raises:
        SettingError: a variable is missing or wrong; its value is not repeated.
    """
    try:
        return kind(**given)
    except ValidationError as error:
        raise _explained(kind, error) from None  # the cause would print the value, a password maybe


def refuse_unknown(prefix: str, *kinds: type[BaseSettings]) -> None:
    """Refuse an environment variable that has the prefix but is a field of none of `kinds`: a misspelt name.

    Raises:
        SettingError: there is such a variable; the error suggests the name that is closest.
    """
    known = {variable for kind in kinds for variable in variables(kind)}
    readable = known | {variable + FILE for variable in known}
    for name, value in os.environ.items():
        if not name.upper().startswith(prefix) or name in readable or _is_link(prefix, name, value):
            continue
        if not value.strip(_COPIED_ALONG):  # some platforms can't remove a variable, only empty it
            continue
        close = difflib.get_close_matches(name.upper(), readable, n=1)
        cure = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"
        raise SettingError(_shown(name), "is not a setting of ledgerq", cure)


def variables(kind: type[BaseSettings]) -> dict[str, str]:
    """Environment variable → field name."""
    return {_variable(kind, name, field): name for name, field in kind.model_fields.items()}


def _variable(kind: type[BaseSettings], name: str, field: FieldInfo) -> str:
    aliases = _aliases(field)
    return aliases[0] if aliases else f"{kind.model_config.get('env_prefix', '')}{name}".upper()


def _aliases(field: FieldInfo) -> list[str]:
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        return [str(choice) for choice in alias.choices]
    return [str(alias)] if alias else []


def _read(variable: str) -> str | None:
    value = _cleaned(variable, os.environ.get(variable, ""))
    file = os.environ.get(variable + FILE, "").strip(_COPIED_ALONG)
    if not file:
        return value or None
    if value:
        raise SettingError(variable, f"is set, and {variable}{FILE} too", "take one of them away")
    content = _cleaned(variable + FILE, _content(variable + FILE, file))
    if not content:
        raise SettingError(variable + FILE, "names an empty file", f"write {variable} into it")
    return content


def _cleaned(variable: str, value: str) -> str:
    value = value.strip(_COPIED_ALONG)
    if value[:1] in {'"', "'"} or value[-1:] in {'"', "'"}:
        raise SettingError(variable, "begins or ends with a quotation mark", "take it away")
    if not value.isprintable():
        raise SettingError(
            variable, "holds a control character, or bytes that are no text", "write it once more"
        )
    return value


def _content(variable: str, file: str) -> str:
    """The file's text. No error shows the text or the file's name: the variable may hold the secret by mistake."""
    cure = "name a readable text file that holds the value and nothing else"
    try:
        opened = os.open(file, os.O_RDONLY | os.O_NONBLOCK)  # a pipe without a writer would hang us
        with os.fdopen(opened, "rb") as stream:
            if not stat.S_ISREG(os.fstat(opened).st_mode):
                raise SettingError(variable, "names something that is not a file", cure)
            content = stream.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no file name"
        raise SettingError(variable, f"can't be read ({reason})", cure) from None
    if len(content) > _LARGEST_FILE:
        raise SettingError(variable, f"names a file of more than {_LARGEST_FILE} bytes", cure)
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise SettingError(variable, "names a file that is not UTF-8", cure) from None


def _is_link(prefix: str, name: str, value: str) -> bool:
    """True for a variable that Kubernetes or Docker sets for a service whose name begins with `ledgerq`."""
    container, of_a_link, _ = name.partition("_ENV_")
    if of_a_link and os.environ.get(f"{container}_NAME", "").startswith("/"):
        return True
    rest = name.removeprefix(prefix.removesuffix("_"))
    return any(
        re.fullmatch(rf"(_[A-Z0-9_]+)?{form}", rest) and re.fullmatch(looks, value)
        for form, looks in _LINKS
    )


def _shown(name: str) -> str:
    return name if name.isprintable() else ascii(name)


def _explained(kind: type[BaseSettings], error: ValidationError) -> SettingError:
    first = error.errors(include_url=False, include_input=False)[0]
    location = str(first["loc"][0])
    name, field = next(
        (name, field)
        for name, field in kind.model_fields.items()
        if location in {name, *_aliases(field)}
    )
    variable = _variable(kind, name, field)
    if os.environ.get(variable + FILE) and not os.environ.get(variable):
        variable += FILE
    problem = "is not set" if first["type"] == "missing" else first["msg"]
    cure = f"set it to {field.description}"
    return SettingError(variable, problem.removeprefix("Value error, "), cure)
