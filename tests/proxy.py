"""A TCP proxy on loopback that can cut and delay its connections, and lose packets."""

import contextlib
import random
import socket
import threading
import time

RETRANSMIT_S = 0.2  # Linux sends a lost packet again after this time at the earliest


class Proxy:
    """Forwards `127.0.0.1:port` to another port until it is closed.

    Each chunk of data is delayed by `delay_s` seconds. The share `loss` of the chunks is lost and sent again: over TCP
    they are late, and what follows waits for them.
    """

    def __init__(self, target_port, port=0):
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self.delay_s = self.loss = 0.0
        self._luck = random.Random(0)
        self._open = []
        self._flowing, self._answering = threading.Event(), threading.Event()
        self.release()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        """Close every open connection."""
        while self._open:
            _close(self._open.pop())

    def hold(self):
        """Forward nothing, and close nothing, until `release`: like a cable that is pulled, or a frozen server."""
        self._flowing.clear()

    def hold_answers(self):
        """Forward nothing that comes from the server, until `release`."""
        self._answering.clear()

    def release(self):
        """Forward what was held."""
        self._flowing.set()
        self._answering.set()

    def close(self):
        """Close every connection and accept no more."""
        self.release()
        _close(self._listener)
        self.cut()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target_port))
                except OSError:  # the server is not running
                    _close(client)
                    continue
                for connection in (client, server):  # avoids 40 ms per message: Nagle and delayed acknowledgements
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open += [client, server]
                for ends in ((client, server, self._flowing), (server, client, self._answering)):
                    threading.Thread(target=self._forward, args=ends, daemon=True).start()

    def _forward(self, source, target, direction):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self.delay_s:
                    time.sleep(self.delay_s)
                if self._luck.random() < self.loss:
                    time.sleep(RETRANSMIT_S)
                self._flowing.wait()
                direction.wait()
                target.sendall(data)
        _close(source)
        _close(target)


def _close(connection):
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
