"""A TCP proxy on loopback whose connections can be cut and slowed, as a network does it."""

import contextlib
import socket
import threading
import time


class Proxy:
    """Forwards `127.0.0.1:port` to another port until it is closed; each read is held for `delay_s`."""

    def __init__(self, target_port, port=0):
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self.delay_s = 0.0
        self._open = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        """Break every connection that is open now."""
        while self._open:
            _close(self._open.pop())

    def close(self):
        """Break everything and accept no more."""
        _close(self._listener)
        self.cut()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target_port))
                except OSError:  # the server is away
                    _close(near)
                    continue
                for each in (near, far):  # or each message would wait 40 ms for an acknowledgement that waits for it
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open += [near, far]
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._forward, args=(source, target), daemon=True).start()

    def _forward(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self.delay_s:
                    time.sleep(self.delay_s)
                target.sendall(data)
        _close(source)
        _close(target)


def _close(each):
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
