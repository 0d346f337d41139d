"""Structured logs on standard error. Standard output is for the results of a command."""

from __future__ import annotations

import logging
import sys

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
    # pika logs a stack trace for every lost connection, which the broker already logs in one line.
    logging.getLogger("pika").setLevel(logging.CRITICAL)
