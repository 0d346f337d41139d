"""Structured logs: of a command on standard error, of a library in the loggers of the program that embeds it."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from patchline.protocol.errors import SetupError

LEVELS = ("debug", "info", "warning", "error")


def configure(level: str = "info") -> None:
    """Log readable lines to a terminal, and JSON lines elsewhere.

    Args:
        level: `debug` (which adds a line for each verdict), `info`, `warning` or `error`.

    Raises:
        SetupError: the level is unknown.
    """
    if level not in LEVELS:
        raise SetupError(f"the log level {level!r} of PATCHLINE_LOG_LEVEL is not one of {', '.join(LEVELS)}")
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # They log every lost connection, pika with a stack trace, which their users here already log in one line.
    for library in ("pika", "asyncua", "pymodbus", "snap7"):
        logging.getLogger(library).setLevel(logging.CRITICAL)


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


def _as_text(_: object, __: str, event: structlog.typing.EventDict) -> str:
    """Return an event as a line: its text, then its fields."""
    fields: dict[str, Any] = dict(event)
    return " ".join([str(fields.pop("event")), *(f"{name}={value!r}" for name, value in fields.items())])
