"""Prometheus metrics. The only prometheus_client user."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry as Registry
from prometheus_client import Counter, Gauge, Histogram

from patchline.protocol.errors import SetupError

__all__ = ["Application", "Counter", "Gauge", "Histogram", "Registry", "application", "serve", "unusable"]

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def application(registry: Registry) -> Application:
    """Return a WSGI application that serves the metrics of a registry."""
    return prometheus_client.make_wsgi_app(registry)


def serve(registry: Registry, host: str, port: int) -> None:
    """Serve the metrics of a registry at `http://host:port/metrics`, on a background thread.

    Raises:
        SetupError: another process uses the port, or the address is not one of this machine.
    """
    try:
        prometheus_client.start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise unusable(host, port, error) from error


def unusable(host: str, port: int, error: OSError) -> SetupError:
    """Return the error for a port that cannot be listened on."""
    advice = "choose another one with --metrics-port, or in the configuration under worker"
    return SetupError(f"metrics cannot be served at {host}:{port} ({error.strerror or error}); {advice}")
