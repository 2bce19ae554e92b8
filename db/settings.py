"""Settings from the environment, and what is said of a wrong one: its name, the problem, the cure."""

import difflib
import os
from typing import Any, TypeVar

from pydantic import AliasChoices, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from db.errors import SettingError

S = TypeVar("S", bound=BaseSettings)


def load(kind: type[S], **given: Any) -> S:
    """Read the settings from the environment; what is given comes before it.

    Raises:
        SettingError: a variable is missing or wrong; its value is not repeated.
    """
    try:
        return kind(**given)
    except ValidationError as error:
        raise _explained(kind, error) from None  # the cause would print the value, a password maybe


def refuse_unknown(prefix: str, *kinds: type[BaseSettings]) -> None:
    """Refuse a variable that has our prefix and a name that none of the kinds reads: a typing error.

    Raises:
        SettingError: with the name that was meant, if one is close.
    """
    known = {variable for kind in kinds for variable in variables(kind)}
    for name in os.environ:
        if name.startswith(prefix) and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            cure = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"
            raise SettingError(name, "is not a setting of ledgerq", cure)


def variables(kind: type[BaseSettings]) -> dict[str, str]:
    """Environment variable → field name."""
    prefix = kind.model_config.get("env_prefix", "")
    return {
        _alias(field) or f"{prefix}{name}".upper(): name
        for name, field in kind.model_fields.items()
    }


def _alias(field: FieldInfo) -> str | None:
    alias = field.validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else alias  # type: ignore[return-value]


def _explained(kind: type[BaseSettings], error: ValidationError) -> SettingError:
    first = error.errors(include_url=False, include_input=False)[0]
    location = str(first["loc"][0])
    fields = variables(kind)
    variable = next(v for v, field in fields.items() if location.upper() in (v, field.upper()))
    problem = "is not set" if first["type"] == "missing" else first["msg"]
    description = kind.model_fields[fields[variable]].description
    return SettingError(variable, problem.removeprefix("Value error, "), f"set it to {description}")
