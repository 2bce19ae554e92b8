"""Settings from the environment, and what is said of a wrong one: its name, the problem, the cure."""

import difflib
import os
from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from db.errors import SettingError

S = TypeVar("S", bound=BaseSettings)


def load(*kinds: type[S]) -> list[S]:
    """Read each kind of settings from the environment.

    Raises:
        SettingError: a variable is missing, wrong, or has our prefix and a name that nobody reads.
    """
    prefixes = tuple(kind.model_config.get("env_prefix", "") for kind in kinds)
    _refuse_unknown(prefixes, {name for kind in kinds for name in variables(kind)})
    return [_load_one(kind) for kind in kinds]


def variables(kind: type[BaseSettings]) -> dict[str, str]:
    """Environment variable → field name."""
    prefix = kind.model_config.get("env_prefix", "")
    return {
        str(field.validation_alias or f"{prefix}{name}").upper(): name
        for name, field in kind.model_fields.items()
    }


def _load_one(kind: type[S]) -> S:
    try:
        return kind()
    except ValidationError as error:
        raise _explained(kind, error) from None  # the cause would print the value, a password maybe


def _explained(kind: type[BaseSettings], error: ValidationError) -> SettingError:
    first = error.errors(include_url=False, include_input=False)[0]
    location = str(first["loc"][0])
    names = {field: variable for variable, field in variables(kind).items()}
    variable = names.get(location, location.upper())
    field = kind.model_fields[variables(kind)[variable]]
    problem = "is not set" if first["type"] == "missing" else first["msg"]
    return SettingError(variable, problem, f"set it to {field.description}")


def _refuse_unknown(prefixes: tuple[str, ...], known: set[str]) -> None:
    for name in os.environ:
        if name.startswith(prefixes) and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            cure = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"
            raise SettingError(name, "is not a setting of ledgerq", cure)
