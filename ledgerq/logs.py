"""Logs: one structured line per fact, for a person on a terminal or as JSON for a program.

```python
configure_logging("auto", "INFO")  # a worker's own process; a library's user keeps their logging
```
"""

import json
import logging
import sys
from typing import Any

import structlog

from ledgerq.execution.report import JobBuried
from ledgerq.text import spelt_out

_OF_LINES = ("exception", "stack")  # what a traceback is written under


def configure_logging(log_format: str, level: str) -> None:
    """Send our log lines and those of the libraries to standard error, in one format.

    For programs that are ours alone, such as the command line: it takes over the logging of the whole process.

    Args:
        log_format: `console`, `json`, or `auto`: console on a terminal, else json.
        level: DEBUG, INFO, WARNING or ERROR.
    """
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            *([_escape] if console else []),  # JSON escapes by itself
            _renderer(console=console),
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=level, force=True)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)  # we only ask it for the revision
    _quieten_arq()


def _renderer(*, console: bool) -> structlog.typing.Processor:
    if console:
        return structlog.dev.ConsoleRenderer()
    return structlog.processors.JSONRenderer(serializer=_json)


def _json(line: structlog.typing.EventDict, **_: Any) -> str:
    try:
        return json.dumps(line, default=_told)
    except Exception:  # noqa: BLE001 - a value that can't be written is no reason to lose the line
        return json.dumps({key: _told(value) for key, value in line.items()})


def _told(value: object) -> str:
    """A value's own description, if it has one."""
    try:
        return value if isinstance(value, str) else repr(value)
    except Exception as error:  # noqa: BLE001 - the value's own code runs here
        return f"<{type(value).__name__}: {type(error).__name__}>"


def _escape(
    _logger: object, _method: str, line: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """No control character of a stranger reaches a terminal, and none of their lines looks like ours.

    Only a traceback has lines; each begins with a blank, and a log line does not.
    """
    return {
        spelt_out(str(key)): _indented(value) if key in _OF_LINES else _escaped(value)
        for key, value in line.items()
    }


def _escaped(value: object) -> object:
    if value is None or type(value) in {bool, int, float}:
        return value
    return spelt_out(_told(value))


def _indented(value: object) -> str:
    return "\n".join(f"  {spelt_out(line)}" for line in _told(value).split("\n"))


def _quieten_arq() -> None:
    """arq logs payloads at INFO, and each buried job with a traceback; we have a line for each job."""
    arq = logging.getLogger("arq")
    arq.handlers.clear()
    arq.setLevel(logging.WARNING)
    logging.getLogger("arq.worker").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], JobBuried))
