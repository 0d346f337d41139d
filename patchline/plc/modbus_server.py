"""Words in this process that a PLC polls: a Modbus TCP server, which needs no package.

It answers every request, also those that arrive together, in their order. Holding and input registers are the same
words. It knows the functions 3 and 4 (read), 6 and 16 (write) and 23 (write, then read), and no other.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence

import structlog

from patchline.plc.words import PlcError, PlcRefusal

_log = structlog.get_logger(__name__)
MAX_CONNECTIONS = 16  # one more ends the connection that has been silent for longest
KEEPALIVE_S = 10  # a PLC that lost its power is noticed after four times this
_HEADER = struct.Struct(">HHHB")  # transaction, protocol, length of what follows with the unit, unit
_MAX_LENGTH = 254  # unit and request
_ILLEGAL_FUNCTION, _ILLEGAL_ADDRESS, _ILLEGAL_VALUE = 1, 2, 3
_MAX_READ, _MAX_WRITE = 125, 123


class ModbusServer:
    """A `WordMemory` that a PLC reads and writes as a client. The gate's own calls use no network.

    It listens from the first call until `close`, and again at the next call. A call raises `PlcError` while its
    address cannot be had, for example because another gate of this host has it.

    Args:
        host: address to listen on.
        port: TCP port; 0 picks a free one, which stays. One below 1024 needs the capability CAP_NET_BIND_SERVICE.
        size: number of words, from 0 on.
        writable: the words that a PLC may write. It may read all; a write elsewhere is refused as an illegal address.
    """

    def __init__(self, host: str, port: int, size: int, writable: range) -> None:
        self._host, self._port = host, port
        self._table = _Table(size, writable)
        self._listener: _Listener | None = None

    @property
    def port(self) -> int:
        """The TCP port.

        Raises:
            PlcError: the address cannot be had.
        """
        return self._listening().port

    def read(self, start: int, count: int) -> tuple[int, ...]:
        """See `WordMemory`."""
        self._listening()
        try:
            return self._table.read(start, count)
        except _RequestError:
            raise PlcRefusal(f"words {start} to {start + count - 1} do not exist") from None

    def write(self, start: int, words: Sequence[int]) -> None:
        """See `WordMemory`."""
        self._listening()
        try:
            self._table.write(start, words)
        except _RequestError:
            raise PlcRefusal(f"words {start} to {start + len(words) - 1} do not exist") from None

    def close(self) -> None:
        """End all connections and give the port back. The words stay."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _listening(self) -> _Listener:
        if self._listener is None:
            try:
                self._listener = _Listener(self._host, self._port, self._table)
            except OSError as error:
                raise PlcError(f"cannot listen on {self._host}:{self._port}: {error}") from error
            self._port = self._listener.port
            _log.info("listening for the PLC", protocol="Modbus TCP", host=self._host, port=self._port)
        return self._listener


class _RequestError(Exception):
    """A request is refused.

    Args:
        code: the code of the exception response.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _Table:
    """The words, and the answers to requests for them. The gate's thread and the server's share it."""

    def __init__(self, size: int, writable: range) -> None:
        self._words = array("H", bytes(2 * size))
        self._writable = writable
        self._lock = threading.RLock()
        self._functions: dict[int, Callable[[bytes], bytes]] = {
            3: self._read_words,
            4: self._read_words,
            6: self._write_word,
            16: self._write_words,
            23: self._write_and_read_words,
        }

    def read(self, start: int, count: int) -> tuple[int, ...]:
        """Return words as they are at one time."""
        if not 0 <= start <= start + count <= len(self._words):
            raise _RequestError(_ILLEGAL_ADDRESS)
        with self._lock:
            return tuple(self._words[start : start + count])

    def write(self, start: int, words: Sequence[int]) -> None:
        """Write words at one time."""
        if not 0 <= start <= start + len(words) <= len(self._words):
            raise _RequestError(_ILLEGAL_ADDRESS)
        new = array("H", words)  # raises here, and not while a PLC reads, if one is above 65535
        with self._lock:
            self._words[start : start + len(words)] = new

    def answer(self, request: bytes) -> bytes:
        """Return the response to a request, each without its header and unit."""
        function = request[0]
        try:
            if function not in self._functions:
                raise _RequestError(_ILLEGAL_FUNCTION)
            return bytes([function]) + self._functions[function](request[1:])
        except _RequestError as error:
            return bytes([function | 0x80, error.code])
        except struct.error:  # too short, or too long
            return bytes([function | 0x80, _ILLEGAL_VALUE])

    def _read_words(self, data: bytes) -> bytes:
        start, count = struct.unpack(">HH", data)
        if not 1 <= count <= _MAX_READ:
            raise _RequestError(_ILLEGAL_VALUE)
        return struct.pack(f">B{count}H", 2 * count, *self.read(start, count))

    def _write_word(self, data: bytes) -> bytes:
        start, word = struct.unpack(">HH", data)
        self._write_as_plc(start, (word,))
        return data

    def _write_words(self, data: bytes) -> bytes:
        start, count, size = struct.unpack_from(">HHB", data)
        if not 1 <= count <= _MAX_WRITE or size != 2 * count:
            raise _RequestError(_ILLEGAL_VALUE)
        self._write_as_plc(start, struct.unpack(f">{count}H", data[5:]))
        return data[:4]

    def _write_and_read_words(self, data: bytes) -> bytes:
        with self._lock:
            self._read_words(data[:4])  # what cannot be read is refused before anything is written
            self._write_words(data[4:])
            return self._read_words(data[:4])

    def _write_as_plc(self, start: int, words: Sequence[int]) -> None:
        if not self._writable.start <= start <= start + len(words) <= self._writable.stop:
            raise _RequestError(_ILLEGAL_ADDRESS)
        self.write(start, words)


class _Listener:
    """A listening port and its connections, on a thread of their own."""

    def __init__(self, host: str, port: int, table: _Table) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
        self.port: int = listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._connections: OrderedDict[_Connection, None] = OrderedDict()
        server = self._loop.run_until_complete(
            self._loop.create_server(lambda: _Connection(self, table), sock=listener)
        )
        self._thread = threading.Thread(target=self._run, args=(server,), name="modbus server", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the connections and the thread, and give the port back."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def opened(self, connection: _Connection) -> None:
        """Keep a new connection."""
        if len(self._connections) >= MAX_CONNECTIONS:
            silent, _ = self._connections.popitem(last=False)
            silent.abort()
        self._connections[connection] = None

    def used(self, connection: _Connection) -> None:
        """Remember that a connection is alive."""
        self._connections.move_to_end(connection)

    def lost(self, connection: _Connection) -> None:
        """Forget a connection."""
        self._connections.pop(connection, None)

    def _run(self, server: asyncio.Server) -> None:
        self._loop.run_forever()
        server.close()
        for connection in self._connections:
            connection.abort()
        self._loop.run_until_complete(server.wait_closed())
        self._loop.run_until_complete(asyncio.sleep(0))  # closes the aborted connections
        self._loop.close()


class _Connection(asyncio.Protocol):
    """One client. Its requests are answered in their order."""

    _transport: asyncio.Transport

    def __init__(self, listener: _Listener, table: _Table) -> None:
        self._listener = listener
        self._table = table
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        self._listener.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._listener.lost(self)

    def abort(self) -> None:
        """End the connection."""
        self._transport.abort()

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`: a client that reads no answers may ask nothing more."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._listener.used(self)
        self._received += data
        while len(self._received) > _HEADER.size:
            transaction, protocol, length, unit = _HEADER.unpack_from(self._received)
            end = _HEADER.size - 1 + length
            if protocol != 0 or not 2 <= length <= _MAX_LENGTH:
                self.abort()  # not Modbus: where the next request starts is not known
                return
            if len(self._received) < end:
                return
            response = self._table.answer(self._received[_HEADER.size : end])
            self._transport.write(_HEADER.pack(transaction, 0, len(response) + 1, unit) + response)
            self._received = self._received[end:]
