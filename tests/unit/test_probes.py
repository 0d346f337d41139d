"""The pages of metrics and probes, without a network."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from types import SimpleNamespace

from patchline.runtime import health, metrics
from patchline.runtime.health import Health


def asked(page, path):
    """Return the status and the body of a page."""
    said = []
    environment = {"PATH_INFO": path, "REQUEST_METHOD": "GET"}
    body = b"".join(page(environment, lambda status, _: said.append(status)))
    return said[0].split()[0], body


def test_a_value_that_never_comes_holds_four_requests_for_metrics_and_no_probe():
    registry, frozen, waiting = metrics.Registry(), threading.Event(), threading.Semaphore(0)
    gauge = metrics.Gauge("patchline_free_bytes", "Of a disk that has frozen.", registry=registry)
    gauge.set_function(lambda: waiting.release() or frozen.wait() or 7.0)
    page = health.pages(metrics.application(registry), Health(60.0))
    with ThreadPoolExecutor(4) as scrapes:
        try:
            answers = [scrapes.submit(asked, page, "/metrics") for _ in range(4)]
            for _ in answers:
                waiting.acquire()
            assert asked(page, "/metrics")[0] == "503"
            assert asked(page, "/healthz") == ("200", b"yes\n")
        finally:
            frozen.set()
        assert [answer.result()[0] for answer in answers] == ["200"] * 4
    assert asked(page, "/metrics")[0] == "200"


def test_a_client_that_says_nothing_is_left_alone_after_a_while(monkeypatch, capsys):
    assert health._SilentHandler.timeout <= 60.0
    monkeypatch.setattr(health._SilentHandler, "timeout", 0.05)
    ours, theirs = socket.socketpair()
    server = SimpleNamespace(RequestHandlerClass=health._SilentHandler, shutdown_request=lambda one: one.close())
    for name in ("finish_request", "process_request_thread", "handle_error"):
        setattr(server, name, getattr(health._Server, name).__get__(server, health._Server))
    with closing(ours), closing(theirs):
        health._Server.process_request_thread(server, ours, ("127.0.0.1", 1))
        assert theirs.recv(1) == b""
    assert capsys.readouterr().err == ""
