"""Prometheus metrics. The only prometheus_client user."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry as Registry
from prometheus_client import Counter, Gauge, Histogram

__all__ = ["Application", "Counter", "Gauge", "Histogram", "Registry", "application", "serve"]

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def application(registry: Registry) -> Application:
    """Return a WSGI application that serves the metrics of a registry."""
    return prometheus_client.make_wsgi_app(registry)


def serve(registry: Registry, host: str, port: int) -> None:
    """Serve the metrics of a registry at `http://host:port/metrics`, on a background thread."""
    prometheus_client.start_http_server(port, addr=host, registry=registry)
