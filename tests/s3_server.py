"""Servers of S3 on free loopback ports: moto's, with the bucket `pictures`, and a plain one with faults."""

import importlib.util
import os
import sys
import threading
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from patchline.services import server

SCRIPT = "import sys; from moto.server import main; main(sys.argv[1:])"
MAKER = "x-amz-meta-patchline-maker"


def require():
    """Skip what follows without the packages for S3. In CI it fails."""
    missing = [name for name in ("obstore", "moto", "flask_cors") if importlib.util.find_spec(name) is None]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"not installed: {', '.join(missing)}", allow_module_level=True)
    assert not missing


@contextmanager
def running(folder):
    """Run the server until the block ends. Yield its endpoint."""
    (port,) = server.free_ports(1)
    endpoint = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-c", SCRIPT, "-H", "127.0.0.1", "-p", str(port)]
    moto = server.Server("moto", command, folder, lambda: server.is_listening(port))
    moto.start()
    try:
        moto.wait()
        make_bucket(endpoint)
        yield endpoint
    finally:
        moto.stop()


def make_bucket(endpoint):
    request = urllib.request.Request(f"{endpoint}/pictures", method="PUT", data=b"")
    urllib.request.urlopen(request, timeout=30).close()


class PlainServer:
    """A few lines of S3 in this process, with the faults that moto's server does not have.

    Attributes:
        conditional: knows `If-None-Match: *`.
        loses_answers: does what it is asked to PUT, and closes the connection without an answer.
        forbids: lets nobody PUT.
        reads_nothing: closes the connection of a GET, too.
        requests: the method and path of each request.
        objects: the body and the maker of each object, by path.
    """

    def __init__(self, conditional=True):
        self.conditional, self.loses_answers = conditional, False
        self.reads_nothing = self.forbids = False
        self.requests, self.objects = [], {}
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                owner.requests.append(("PUT", self.path))
                if owner.forbids:
                    self._answer(403)
                    return
                if owner.conditional and self.headers.get("If-None-Match") == "*" and self.path in owner.objects:
                    self._answer(412)
                    return
                owner.objects[self.path] = body, self.headers.get(MAKER, "")
                if owner.loses_answers:
                    self.close_connection = True
                else:
                    self._answer(200)

            def do_GET(self):
                owner.requests.append(("GET", self.path))
                if owner.reads_nothing:
                    self.close_connection = True
                    return
                body, maker = owner.objects.get(self.path, (b"<Error><Code>NoSuchKey</Code></Error>", ""))
                self._answer(200 if self.path in owner.objects else 404, body, maker)

            def _answer(self, status, body=b"", maker=""):
                self.send_response(status)
                headers = {"Content-Length": len(body), "ETag": '"e"', "Last-Modified": "Sat, 28 Nov 2026 12:00:00 GMT"}
                for name, value in (headers | {MAKER: maker}).items():
                    self.send_header(name, str(value))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *_: None  # clients that have gone
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
