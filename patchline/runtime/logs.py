"""Structured logs: of a command on standard error, of a library in the loggers of the program that embeds it."""

from __future__ import annotations

import atexit
import logging
import sys
from typing import Any

from patchline.protocol import optional_imports
from patchline.protocol.errors import SetupError
from patchline.runtime.log_lines import LineLogger, LogLines

with optional_imports.without("rich", "greenlet"):  # 5 MB, for stack traces in colour and another kind of threads
    import structlog

LEVELS = ("debug", "info", "warning", "error")
_END_TIMEOUT_S = 1.0
_LOST = "lines of the log are lost, they could not be written"
_lines: LogLines | None = None


def configure(level: str = "info") -> None:
    """Log readable lines to a terminal, and JSON lines elsewhere. Whoever logs does not wait, whatever the reader does.

    Args:
        level: `debug` (which adds a line for each verdict), `info`, `warning` or `error`.

    Raises:
        SetupError: the level is unknown.
    """
    if level not in LEVELS:
        raise SetupError(f"the log level {level!r} of PATCHLINE_LOG_LEVEL is not one of {', '.join(LEVELS)}")
    lines = _start()
    structlog.configure(
        processors=_processors(),
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_: LineLogger(lines),
        cache_logger_on_first_use=False,
    )
    # They log every lost connection, pika with a stack trace, which their users here already log in one line.
    for library in ("pika", "asyncua", "pymodbus", "snap7"):
        logging.getLogger(library).setLevel(logging.CRITICAL)


def say(text: str) -> None:
    """Write a line to standard error, after what was logged before."""
    (_lines or _start()).put(text)


def flush(timeout_s: float = _END_TIMEOUT_S) -> None:
    """Wait until what was logged has been written. Call it before `os._exit`; other ends of a process do it."""
    if _lines is not None:
        _lines.flush(timeout_s)


def use_standard_logging() -> None:
    """Log to the loggers `patchline.*` of the standard library: the program that embeds Patchline has the handlers.

    If the program has configured structlog, its configuration holds.
    """
    if structlog.is_configured():
        return
    logging.getLogger("patchline").addHandler(logging.NullHandler())
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, structlog.processors.format_exc_info, _as_text],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def _start() -> LogLines:
    global _lines
    flush()
    if _lines is None:
        atexit.register(flush)
    _lines = LogLines(sys.stderr, _lost)
    return _lines


def _processors() -> list[structlog.typing.Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer(),
    ]


def _lost(count: int) -> str:
    """Return the line that says how many lines are lost."""
    event: Any = {"event": _LOST, "lines": count}
    for process in _processors():
        event = process(None, "warning", event)
    return str(event)


def _as_text(_: object, __: str, event: structlog.typing.EventDict) -> str:
    """Return an event as a line: its text, then its fields."""
    fields: dict[str, Any] = dict(event)
    return " ".join([str(fields.pop("event")), *(f"{name}={value!r}" for name, value in fields.items())])
