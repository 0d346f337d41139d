"""Prometheus metrics. The only prometheus_client user."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry as Registry
from prometheus_client import Counter, Gauge, Histogram

from patchline.protocol.errors import SetupError

__all__ = ["Application", "Counter", "Gauge", "Histogram", "Registry", "application", "unusable"]

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def application(registry: Registry) -> Application:
    """Return a WSGI application that serves the metrics of a registry."""
    return prometheus_client.make_wsgi_app(registry)


def unusable(host: str, port: int, error: OSError) -> SetupError:
    """Return the error for a port that cannot be listened on."""
    advice = "choose another one with --metrics-port, or in the configuration under worker"
    return SetupError(f"metrics cannot be served at {host}:{port} ({error.strerror or error}); {advice}")
