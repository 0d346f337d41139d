"""The liveness and readiness probes of a process, served on the port of its metrics; and those of a worker."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any, Protocol
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog

from patchline.protocol.errors import SetupError
from patchline.runtime.metrics import Application, Registry, application, unusable

_log = structlog.get_logger(__name__)
_MOST_SCRAPES = 4  # at the same time
_TEXT = [("Content-Type", "text/plain; charset=utf-8")]
PROCESS_HEADER = "Patchline-Process"  # its id: another process may have the port that somebody asks


class Probes(Protocol):
    """What the probes ask."""

    def is_alive(self) -> bool:
        """Return False if the process has to be restarted."""
        ...

    def is_ready(self) -> bool:
        """Return True if the process does its work."""
        ...


class Health:
    """A worker is alive while its lanes make progress, and ready while it is alive, consumes jobs, and can publish.

    It also counts as alive while it loads its models; the supervisor limits that time.
    """

    def __init__(self, stuck_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._stuck_s = stuck_s
        self._clock = clock
        self._progress_at: float | None = None
        self.is_consuming: Callable[[], bool] = lambda: False
        self.is_blocked: Callable[[], bool] = lambda: False

    def record_progress(self) -> None:
        """Record that every lane has completed a step."""
        self._progress_at = self._clock()

    def is_alive(self) -> bool:
        """Return False if the lanes have been stuck for too long."""
        return self._progress_at is None or self._clock() - self._progress_at < self._stuck_s

    def is_ready(self) -> bool:
        """Return True if the worker inspects jobs."""
        return self._progress_at is not None and self.is_alive() and self.is_consuming() and not self.is_blocked()


def serve(host: str, port: int, metrics: Application, health: Probes) -> int:
    """Serve /metrics, /healthz and /readyz over HTTP, on a background thread.

    Args:
        host: the address to listen on.
        port: 0 picks a free port.
        metrics: the WSGI application for /metrics.
        health: the state behind /healthz and /readyz, which answer 200 or 503.

    Returns:
        The port.

    Raises:
        SetupError: another process uses the port, or the address is not one of this machine.
    """
    try:
        server = make_server(host, port, pages(metrics, health), server_class=_Server, handler_class=_SilentHandler)
    except OSError as error:
        raise unusable(host, port, error) from error
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return int(server.server_port)


def pages(metrics: Application, health: Probes) -> Application:
    """Return the WSGI application of /metrics, /healthz and /readyz.

    A metric may ask a disk that has frozen. Of the requests for metrics, a few wait for it, and the others are refused:
    each that waits holds a thread and a socket.
    """
    probes = {"/healthz": health.is_alive, "/readyz": health.is_ready}
    room = threading.BoundedSemaphore(_MOST_SCRAPES)

    def answer(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environment["PATH_INFO"]
        if path == "/metrics":
            if not room.acquire(blocking=False):
                start("503 Service Unavailable", _TEXT)
                return [b"earlier requests still wait for a value\n"]
            try:
                return metrics(environment, start)
            finally:
                room.release()
        if path not in probes:
            start("404 Not Found", _TEXT)
            return [b"/metrics, /healthz, /readyz\n"]
        healthy = probes[path]()
        start("200 OK" if healthy else "503 Service Unavailable", [*_TEXT, (PROCESS_HEADER, str(os.getpid()))])
        return [b"yes\n" if healthy else b"no\n"]

    return answer


def try_to_serve(host: str, port: int | None, registry: Registry, health: Probes, doing: str) -> None:
    """Serve the metrics and probes of a process that goes on without them. An error is logged: `DOING without metrics`.

    Args:
        host: the address to listen on.
        port: None: serve nothing.
        registry: of the metrics.
        health: what the probes ask.
        doing: what the process does, such as `acting`.
    """
    if port is None:
        return
    try:
        serve(host, port, application(registry), health)
    except SetupError as error:
        _log.error(f"{doing} without metrics", reason=str(error))


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that goes, or that stays silent. Python prints its stack trace."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _SilentHandler(WSGIRequestHandler):
    timeout = 30.0  # a client without a word keeps no thread and no socket for longer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the signature of the base class
        """Do not log requests: probes arrive every few seconds."""
