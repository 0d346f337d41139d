"""moto's server of S3 on a free loopback port, with the bucket `pictures`."""

import sys
import urllib.request
from contextlib import contextmanager

from patchline.services import server

SCRIPT = "import sys; from moto.server import main; main(sys.argv[1:])"


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
