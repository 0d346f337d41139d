"""moto's server of S3 on a free loopback port, with the bucket `pictures`."""

import importlib.util
import os
import sys
import urllib.request
from contextlib import contextmanager

import pytest

from patchline.services import server

SCRIPT = "import sys; from moto.server import main; main(sys.argv[1:])"


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
