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

_OF_LINES = ("exception", "stack")  # the keys that hold a traceback


def configure_logging(log_format: str, level: str) -> None:
    """Send the log lines of ledgerq and of other libraries to standard error, in one format.

    Only for ledgerq's own programs, like the command line: the call replaces the logging setup of the whole process.

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
        processors=[
            structlog.stdlib.filter_by_level,  # before the work of the others
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
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
        return _ENCODER.encode(line)
    except Exception:  # noqa: BLE001 - a value that can't be written is no reason to lose the line
        return json.dumps({key: _told(value) for key, value in line.items()})


def _told(value: object) -> str:
    """The value as text; if its `repr` fails, the names of its class and of the error."""
    try:
        return value if isinstance(value, str) else repr(value)
    except Exception as error:  # noqa: BLE001 - the value's own code runs here
        return f"<{type(value).__name__}: {type(error).__name__}>"


_ENCODER = json.JSONEncoder(default=_told)  # `json.dumps` would make one for each line


def _escape(
    _logger: object, _method: str, line: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Escape control characters, so that no value from outside can steer the terminal or fake a log line.

    Only a traceback keeps its line breaks. Each line of a traceback is indented, which tells it from a log line.
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
    """Drop arq's INFO lines, which show payloads, and its traceback of a buried job: ledgerq logs each job itself."""
    arq = logging.getLogger("arq")
    arq.handlers.clear()
    arq.setLevel(logging.WARNING)
    logging.getLogger("arq.worker").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], JobBuried))
