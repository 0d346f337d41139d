"""Structured logs, on standard error: standard output belongs to what a command answers."""

from __future__ import annotations

import logging
import sys

import structlog

from patchline.protocol.errors import SetupError

LEVELS = ("debug", "info", "warning", "error")


def set_up(level: str = "info") -> None:
    """Readable lines on a terminal, one JSON object a line elsewhere.

    Args:
        level: `debug` (a line for each verdict, too), `info`, `warning` or `error`.

    Raises:
        SetupError: it is another word.
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
    # pika reports every lost connection with a stack trace; our own line says the same.
    logging.getLogger("pika").setLevel(logging.CRITICAL)
