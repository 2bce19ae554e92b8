"""Prepares a service's arq functions and cron jobs for a worker that also runs ledgerq's jobs.

Options that they leave out have arq's defaults, not ledgerq's. So a function that moves here from an arq worker keeps
its five tries, its time limit of 300 seconds and its result for an hour.
"""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar, cast

from arq.cron import CronJob
from arq.worker import Function, Worker, func

from ledgerq.app import App
from ledgerq.errors import DefinitionError

F = TypeVar("F", Function, CronJob)


def arq_functions(app: App) -> list[Function]:
    """The functions of `App(arq_functions=)`; a dotted name is imported.

    Raises:
        DefinitionError: a function is no coroutine function, or can't be imported.
    """
    return [_with_arqs_defaults(_function(each)) for each in app.arq_functions]


def arq_cron_jobs(app: App) -> list[CronJob]:
    """Copies of the cron jobs of `App(arq_cron_jobs=)`. A worker changes its copies: it notes when they run next.

    Raises:
        DefinitionError: an entry was not made by `arq.cron`.
    """
    found = []
    for each in app.arq_cron_jobs:
        if not isinstance(each, CronJob):
            raise DefinitionError("App(arq_cron_jobs=)", f"{each!r} is no cron job", "use arq.cron")
        found.append(_with_arqs_defaults(each))
    return found


def _function(given: Any) -> Function:
    try:
        return func(given)
    except (RuntimeError, ImportError) as error:
        raise DefinitionError(
            "App(arq_functions=)", str(error), "name coroutine functions, as for arq"
        ) from error


def _with_arqs_defaults(function: F) -> F:
    default = _defaults()
    return replace(
        function,
        timeout_s=_or(function.timeout_s, default["job_timeout"]),
        keep_result_s=_or(function.keep_result_s, default["keep_result"]),
        max_tries=_or(function.max_tries, default["max_tries"]),
    )


def _defaults() -> Mapping[str, Any]:
    parameters = inspect.signature(Worker).parameters
    return {name: parameter.default for name, parameter in parameters.items()}


def _or(given: float | None, default: float) -> Any:
    return cast("Any", default if given is None else given)
