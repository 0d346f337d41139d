"""A PLC that answers with nonsense, or byte by byte, or not at all: an error in time, and no other exception."""

import contextlib
import random
import socket
import threading
import time

import pytest

from patchline.plc.ethernet_ip import EthernetIpWords
from patchline.plc.modbus_client import ModbusClient
from patchline.plc.s7 import S7Words
from patchline.plc.words import PlcError

CLIENTS = {
    "modbus": lambda port, timeout_s: ModbusClient("127.0.0.1", port, timeout_s=timeout_s),
    "s7": lambda port, timeout_s: S7Words("127.0.0.1", 1, port=port, timeout_s=timeout_s),
    "ethernet/ip": lambda port, timeout_s: EthernetIpWords("127.0.0.1", "WORDS", port, timeout_s=timeout_s),
}
# Each protocol's answers begin like this: what follows is a frame of 60 bytes and more.
BEGINNINGS = {
    "modbus": bytes([0, 1, 0, 0, 0, 54, 1]),
    "s7": bytes([3, 0, 0, 60]),
    "ethernet/ip": bytes([101, 0, 36, 0]),
}
LIMIT_S = 5


class Stranger:
    """A server that answers whatever it is asked with `answer()`, a list of pieces, with a pause after each."""

    def __init__(self, answer, pause_s=0.0):
        self._answer, self._pause_s = answer, pause_s
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self):
        self._ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(LIMIT_S)
                    while connection.recv(4096):
                        self._send(connection)

    def _send(self, connection):
        for piece in self._answer():
            connection.sendall(piece)
            if self._pause_s and self._ended.wait(self._pause_s):
                return


@contextlib.contextmanager
def stranger(answer, pause_s=0.0):
    """Run a `Stranger`. Yield its port."""
    with contextlib.closing(Stranger(answer, pause_s)) as running:
        yield running.port


def client(protocol, port, timeout_s):
    return contextlib.closing(CLIENTS[protocol](port, timeout_s))


@pytest.mark.parametrize("protocol", CLIENTS)
def test_nonsense_from_a_plc_is_an_error_and_nothing_else(protocol):
    rng = random.Random(11)

    def nonsense():
        beginning = BEGINNINGS[protocol][: rng.randrange(8)]
        return [beginning + rng.randbytes(rng.randrange(1, 80))]

    with stranger(nonsense) as port:
        for _ in range(100):
            with client(protocol, port, 0.02) as memory:
                with pytest.raises(PlcError):
                    memory.read(0, 3)
                with pytest.raises(PlcError):
                    memory.write(0, [1, 2, 3])


@pytest.mark.parametrize("protocol", CLIENTS)
def test_an_answer_that_trickles_in_is_an_error_in_time(protocol):
    answer = [bytes([byte]) for byte in BEGINNINGS[protocol] + bytes(53)]
    with stranger(lambda: answer, pause_s=0.15) as port, client(protocol, port, 0.2) as memory:
        start = time.monotonic()
        with pytest.raises(PlcError):
            memory.read(0, 3)
        assert time.monotonic() - start < LIMIT_S  # the whole answer takes 9 s


@pytest.mark.parametrize("protocol", CLIENTS)
def test_a_plc_that_closes_each_connection_is_an_error(protocol):
    def end():
        raise OSError

    with stranger(end) as port, client(protocol, port, 1.0) as memory:
        for _ in range(3):
            with pytest.raises(PlcError):
                memory.read(0, 1)
