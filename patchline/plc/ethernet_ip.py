"""EtherNet/IP: the words are an array of INT in a PLC of the Logix kind (ControlLogix, CompactLogix, Micro800).

Requests are the services Read Tag and Write Tag on the symbolic path of an element, so no list of tags is fetched. The
packets are pycomm3's. The connection is ours: pycomm3's has a time limit for each piece of an answer and none for the
whole.
"""

from __future__ import annotations

import logging
import socket
import struct
import time
from collections.abc import Callable, Sequence

from pycomm3.cip import PADDED_EPATH
from pycomm3.cip_driver import parse_cip_route
from pycomm3.exceptions import PycommError
from pycomm3.packets import (
    RegisterSessionRequestPacket,
    RequestPacket,
    ResponsePacket,
    SendRRDataRequestPacket,
    tag_request_path,
    wrap_unconnected_send,
)

from patchline.plc.words import MAX_WORDS, PlcError, PlcRefusal
from patchline.protocol.errors import SetupError

PORT = 44818
_CONTEXT, _PROTOCOL_VERSION, _HEADER_BYTES = b"patchlin", b"\x01\x00", 24
_READ_TAG, _WRITE_TAG, _ANSWER = 0x4C, 0x4D, 0x80
_INT = b"\xc3\x00"
_STATUS_OFFSET, _SERVICE_OFFSET = 8, 40  # in an answer
_MAX_ANSWER_BYTES = 1024

logging.getLogger("pycomm3").setLevel(logging.CRITICAL)  # it logs stack traces of what is raised here


class EthernetIpWords:
    """A `WordMemory` in a tag `NAME` of type `INT[n]`. Word 0 is `NAME[0]`.

    An INT is signed in the PLC's program; its 16 bits are the word's. A write is one request. When the PLC copies it
    into the tag is the PLC's affair: in a Logix controller requests are served between the instructions of the program,
    so the program copies a slot with CPS before it compares the sequence number, which comes last.

    Args:
        host: the address of the PLC. A name is resolved once.
        tag: the name of the array. A tag of a program is `Program:NAME.TAG`.
        port: TCP port.
        route: from the network card to the processor, such as `1/0`: by the backplane (1) to slot 0. If empty, the
            card is the processor (Micro800).
        timeout_s: time for a whole call, with the connection if there is none.
        clock: a monotonic clock in seconds.

    Raises:
        SetupError: the host or the route cannot be used.
    """

    def __init__(
        self,
        host: str,
        tag: str,
        port: int = PORT,
        route: str = "1/0",
        timeout_s: float = 0.2,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            self._address = (socket.gethostbyname(host), port)
        except OSError as error:
            raise SetupError(f"{host}: the address of the PLC cannot be resolved ({error})") from error
        self._tag, self._route = tag, _encode_route(route)
        self._timeout_s, self._clock = timeout_s, clock
        self._socket: socket.socket | None = None
        self._session = 0
        self._deadline = 0.0

    def read(self, start: int, count: int) -> tuple[int, ...]:
        """See `WordMemory`."""
        _check(start, count)
        data = self._call(_READ_TAG, start, struct.pack("<H", count))
        if data[:2] != _INT or len(data) != 2 + 2 * count:
            self.close()
            raise PlcError(f"{self._tag}[{start}]: the PLC has not sent {count} values of type INT; is it INT[n]?")
        return struct.unpack(f"<{count}H", data[2:])

    def write(self, start: int, words: Sequence[int]) -> None:
        """See `WordMemory`."""
        _check(start, len(words))
        self._call(_WRITE_TAG, start, _INT + struct.pack(f"<H{len(words)}H", len(words), *words))

    def close(self) -> None:
        """See `WordMemory`."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._session = None, 0

    def _call(self, service: int, start: int, data: bytes) -> bytes:
        """Send a request for an element of the array. Return the data of the answer."""
        self._deadline = self._clock() + self._timeout_s
        try:
            self._connect()
            answer = self._exchange(self._request(service, start, data))
        except (OSError, PycommError) as error:
            self.close()
            raise PlcError(f"{self._tag}[{start}]: {self._describe(error)}") from error
        if not answer or answer.raw[_SERVICE_OFFSET] != service | _ANSWER:
            self.close()
            raise PlcRefusal(f"{self._tag}[{start}]: the PLC refuses: {_reason(answer)}")
        return bytes(answer.data)

    def _request(self, service: int, start: int, data: bytes) -> RequestPacket:
        message = bytes([service]) + tag_request_path(f"{self._tag}[{start}]", {}, False) + data
        return SendRRDataRequestPacket().add(wrap_unconnected_send(message, self._route) if self._route else message)

    def _connect(self) -> None:
        if self._socket is not None:
            return
        self._socket = socket.create_connection(self._address, self._remaining_s())
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answer = self._exchange(RegisterSessionRequestPacket(_PROTOCOL_VERSION))
        if not answer:
            raise ConnectionError(f"the PLC opens no session: {answer.error}")
        self._session = answer.session

    def _exchange(self, request: RequestPacket) -> ResponsePacket:
        assert self._socket is not None
        packet = request.build_request(target_cid=None, session_id=self._session, context=_CONTEXT, option=0)
        self._socket.settimeout(self._remaining_s())
        self._socket.sendall(packet)
        header = self._receive(_HEADER_BYTES)
        (length,) = struct.unpack_from("<H", header, 2)
        if length > _MAX_ANSWER_BYTES:
            raise ConnectionError(f"its answer has {length} bytes")
        return request.response_class(request, header + self._receive(length))

    def _receive(self, count: int) -> bytes:
        assert self._socket is not None
        received = b""
        while len(received) < count:
            self._socket.settimeout(self._remaining_s())
            piece = self._socket.recv(count - len(received))
            if not piece:
                raise ConnectionError("the PLC has closed the connection")
            received += piece
        return received

    def _remaining_s(self) -> float:
        remaining_s = self._deadline - self._clock()
        if remaining_s <= 0:
            raise TimeoutError
        return remaining_s

    def _describe(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"the PLC at {self._address[0]}:{self._address[1]} has not answered within {self._timeout_s:g} s"
        return f"the PLC at {self._address[0]}:{self._address[1]} cannot be reached ({error})"


def _reason(answer: ResponsePacket) -> str:
    (status,) = struct.unpack_from("<I", answer.raw, _STATUS_OFFSET)
    if status:  # of the envelope; there is nothing in it
        return f"status {status:#04x} of EtherNet/IP; is there such a tag?"
    return str(answer.error or "this answers something else")


def _check(start: int, count: int) -> None:
    if start < 0 or not 1 <= count <= MAX_WORDS:
        raise ValueError(f"{count} words from {start} on; 1 to {MAX_WORDS} can be read or written")


def _encode_route(route: str) -> bytes:
    if not route:
        return b""
    try:
        return bytes(PADDED_EPATH.encode(parse_cip_route(route), length=True, pad_length=True))
    except PycommError as error:
        raise SetupError(f"{route!r} is no route to a processor; for slot 0 of a backplane write 1/0") from error
