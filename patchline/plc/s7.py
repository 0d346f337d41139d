"""Words of a Siemens S7 PLC: a data block, over PUT and GET. The only module that knows snap7.

snap7's `Client` waits 5 s for each answer and splits what does not fit into one PDU. So its two lower layers are used
here: one call is one PDU, with a time limit.
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any

from snap7.connection import ISOTCPConnection
from snap7.datatypes import S7Area, S7WordLen
from snap7.error import S7ConnectionError, S7Error
from snap7.s7protocol import S7Protocol

from patchline.plc.words import PlcError, PlcRefusal

PORT = 102
TIMEOUT_S = 0.2
_PDU_BYTES = 480  # asked for; an S7-1200 or -300 grants 240
_READ_OVERHEAD, _WRITE_OVERHEAD = 18, 28  # bytes of a PDU that are not data
_PROGRAMMING_DEVICE = 0x0100  # the kind of connection, in the address of the PLC's side

logging.getLogger("snap7").setLevel(logging.CRITICAL)  # it logs what is raised here


class S7Words:
    """A `WordMemory` in a data block. Word 0 is its byte 0; words are big-endian, as the PLC has them.

    In the PLC the block must not be optimised, and an S7-1200 or -1500 must permit access by PUT and GET.

    A call connects first if there is no connection, and after an error the next call does.

    How many words a call may have depends on the PLC: with PDUs of 240 bytes, 106 are written and 111 read. More are
    an error, since a write in two PDUs could be seen half.

    Args:
        host: IPv4 address of the PLC. A name is looked up at every connection, for as long as the resolver takes.
        block: number of the data block.
        rack: number of the rack.
        slot: number of the processor's slot: 1 in an S7-1200 or -1500, 2 in an S7-300.
        port: TCP port.
        timeout_s: time for a whole call in seconds, with the connection if there is none.
    """

    def __init__(
        self, host: str, block: int, rack: int = 0, slot: int = 1, port: int = PORT, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._host, self._port, self._block = host, port, block
        self._remote = _PROGRAMMING_DEVICE | rack << 5 | slot
        self._timeout_s = timeout_s
        self._connection: _Connection | None = None
        self._protocol = S7Protocol()
        self._pdu_bytes = 0

    def read(self, start: int, count: int) -> tuple[int, ...]:
        """See `WordMemory`."""

        def request() -> bytes:
            self._check_fits(count, _READ_OVERHEAD)
            return self._protocol.build_read_request(S7Area.DB, self._block, 2 * start, S7WordLen.BYTE, 2 * count)

        response = self._call(request)
        try:
            data = self._protocol.extract_read_data(response, S7WordLen.BYTE, 2 * count)
        except S7Error as error:
            raise PlcRefusal(f"{self._name}: {error}") from error
        return struct.unpack(f">{count}H", bytes(data))

    def write(self, start: int, words: Sequence[int]) -> None:
        """See `WordMemory`."""
        data = struct.pack(f">{len(words)}H", *words)

        def request() -> bytes:
            self._check_fits(len(words), _WRITE_OVERHEAD)
            return self._protocol.build_write_request(S7Area.DB, self._block, 2 * start, S7WordLen.BYTE, data)

        response = self._call(request)
        try:
            self._protocol.check_write_response(response)
        except S7Error as error:
            raise PlcRefusal(f"{self._name}: {error}") from error

    def close(self) -> None:
        """See `WordMemory`."""
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None

    def _call(self, request: Callable[[], bytes]) -> dict[str, Any]:
        deadline = time.monotonic() + self._timeout_s
        try:
            if self._connection is None:
                self._connect(deadline)
            return self._exchange(request(), deadline)
        except (S7Error, OSError) as error:
            raise self._failure(error) from error

    def _connect(self, deadline: float) -> None:
        self._connection = _Connection(self._host, self._port, remote_tsap=self._remote)
        self._connection.deadline = deadline
        self._connection.connect(self._timeout_s)
        self._protocol = S7Protocol()
        request = self._protocol.build_setup_communication_request(pdu_length=_PDU_BYTES)
        parameters = self._exchange(request, deadline)["parameters"] or {}
        self._pdu_bytes = min(parameters.get("pdu_length", 0), _PDU_BYTES)

    def _exchange(self, request: bytes, deadline: float) -> dict[str, Any]:
        assert self._connection is not None
        self._connection.deadline = deadline
        self._connection.send_data(request)
        response = self._protocol.parse_response(self._connection.receive_data())
        self._protocol.validate_pdu_reference(response["sequence"])
        return response

    def _check_fits(self, count: int, overhead: int) -> None:
        most = (self._pdu_bytes - overhead) // 2
        if count > most:
            raise PlcError(f"{self._name}: {count} words do not fit into one PDU of this PLC, which takes {most}")

    def _failure(self, error: Exception) -> PlcError:
        self.close()
        return PlcError(f"{self._name}: {error}")

    @property
    def _name(self) -> str:
        return f"S7 {self._host}:{self._port} DB{self._block}"


class _Connection(ISOTCPConnection):
    """snap7's connection. Its time limit holds for each piece of an answer, this one's for the whole."""

    deadline = 0.0  # by time.monotonic()

    def _recv_exact(self, size: int) -> bytes:
        if self.socket is None:
            raise S7ConnectionError("not connected")
        received = b""
        while len(received) < size:
            self.socket.settimeout(max(self.deadline - time.monotonic(), 0.001))
            piece = self.socket.recv(size - len(received))
            if not piece:
                raise S7ConnectionError("the PLC has closed the connection")
            received += piece
        return received
