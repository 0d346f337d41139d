"""Words of a simulated PLC of the S7 kind: a data block, served by snap7."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator, Sequence

from snap7.server import Server
from snap7.type import SrvArea


class S7Server:
    """A data block that the PLC's program and snap7's server share. See `plc_server.PlcServer`.

    Args:
        host: address to listen on.
        port: TCP port.
        block: number of the data block.
        size: number of words.
    """

    def __init__(self, host: str, port: int, block: int, size: int) -> None:
        self.port, self._host, self._block = port, host, block
        self._bytes = bytearray(2 * size)
        self._server = _Server(log=False)
        self._server.register_area(SrvArea.DB, block, self._bytes)

    def listen(self) -> None:
        """See `PlcServer`."""
        self._server.start_to(self._host, self.port)

    def read(self, start: int, count: int) -> tuple[int, ...]:
        """See `PlcServer`."""
        with self._locked():
            return struct.unpack_from(f">{count}H", self._bytes, 2 * start)

    def write(self, start: int, words: Sequence[int]) -> None:
        """See `PlcServer`."""
        with self._locked():
            struct.pack_into(f">{len(words)}H", self._bytes, 2 * start, *words)

    def close(self) -> None:
        """See `PlcServer`."""
        self._server.stop()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._server.lock_area(SrvArea.DB, self._block)
        try:
            yield
        finally:
            self._server.unlock_area(SrvArea.DB, self._block)


class _Server(Server):
    """snap7's server. Its own `stop` waits for each client; a PLC without power ends all connections at once."""

    def __init__(self, log: bool) -> None:
        super().__init__(log)
        self._sockets: set[socket.socket] = set()

    def stop(self) -> int:
        for connection in list(self._sockets):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        return super().stop()

    def _handle_client(self, client_socket: socket.socket, address: tuple[str, int]) -> None:
        self._sockets.add(client_socket)
        try:
            super()._handle_client(client_socket, address)
        finally:
            self._sockets.discard(client_socket)
