"""What probes and watchdogs ask of a worker: is it alive, is it ready. Shown on the port of its metrics."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from patchline.runtime.metrics import Application

_TEXT = [("Content-Type", "text/plain; charset=utf-8")]


class Health:
    """Alive while lanes complete steps; ready once the golden images were scored and the broker delivers.

    While models are loaded there are no steps, and the process is alive: the supervisor has a limit for that.
    """

    def __init__(self, stuck_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._stuck_s = stuck_s
        self._clock = clock
        self._stepped_at: float | None = None
        self.consumes: Callable[[], bool] = lambda: False

    def stepped(self) -> None:
        """Every lane has completed a step."""
        self._stepped_at = self._clock()

    def alive(self) -> bool:
        """Steps complete, or have not begun."""
        return self._stepped_at is None or self._clock() - self._stepped_at < self._stuck_s

    def ready(self) -> bool:
        """Jobs that are published now will be judged."""
        return self._stepped_at is not None and self.alive() and self.consumes()


def serve(host: str, port: int, metrics: Application, health: Health) -> int:
    """Answer /metrics, /healthz and /readyz from a thread of its own.

    Args:
        host: to listen on.
        port: a free one where it is 0.
        metrics: answers /metrics.
        health: answers the others: 200 or 503.

    Returns:
        The port.
    """
    probes = {"/healthz": health.alive, "/readyz": health.ready}

    def answer(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environment["PATH_INFO"]
        if path == "/metrics":
            return metrics(environment, start)
        if path not in probes:
            start("404 Not Found", _TEXT)
            return [b"/metrics, /healthz, /readyz\n"]
        good = probes[path]()
        start("200 OK" if good else "503 Service Unavailable", _TEXT)
        return [b"yes\n" if good else b"no\n"]

    server = make_server(host, port, answer, server_class=_Server, handler_class=_Quiet)
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return int(server.server_port)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that the base class gives it
        """A probe every few seconds is no news."""
