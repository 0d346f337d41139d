"""Words of a simulated PLC with an OPC UA server: an array of UInt16 for each area, served by asyncua."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from asyncua import Server, ua
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.address_space import AddressSpace, AttributeService
from asyncua.server.binary_server_asyncio import BinaryServer

from patchline.plc.loop_thread import LoopThread
from patchline.plc.register_map import Layout
from patchline.plc.words import MemoryWords

_START_S, _END_S = 120.0, 10.0
_SERVER = User(role=UserRole.Admin)  # it sets its own variables


class OpcUaArrays:
    """Two arrays that the PLC's program and asyncua's server share. See `plc_server.PlcServer`.

    Ranges of an array can be read and written, as in a PLC of metal. A gate can write the array of its own area only.
    To make the server takes seconds, so it is made once, and can listen again after `close`.

    Args:
        host: address to listen on.
        port: TCP port.
        layout: where the areas are.
        nodes: the first word of each array, by node id.
    """

    def __init__(self, host: str, port: int, layout: Layout, nodes: dict[str, int]) -> None:
        self.port = port
        sizes = {layout.gate: layout.gate_words, layout.plc: layout.plc_words}
        self._words = _Words(layout.plc + layout.plc_words)
        arrays = {
            ua.NodeId.from_string(node): _Array(self._words, first, sizes[first], first == layout.gate)
            for node, first in nodes.items()
        }
        self._thread = LoopThread("opcua plc")
        self._server = Server()
        self._server.iserver.attribute_service = _Service(self._server.iserver.aspace, arrays)
        self._thread.run(self._make(f"opc.tcp://{host}:{port}/", arrays), _START_S)

    def cleared(self) -> OpcUaArrays:
        """Set all words to 0."""
        self._words.clear()
        return self

    def listen(self) -> None:
        """See `PlcServer`."""
        self._thread.run(self._listener().start(), _START_S)

    def read(self, start: int, count: int) -> tuple[int, ...]:
        """See `PlcServer`."""
        return self._words.read(start, count)

    def write(self, start: int, words: Sequence[int]) -> None:
        """See `PlcServer`."""
        self._words.write(start, words)

    def close(self) -> None:
        """See `PlcServer`."""
        self._thread.run(self._listener().stop(), _END_S)

    def _listener(self) -> BinaryServer:
        assert self._server.bserver is not None
        return self._server.bserver

    async def _make(self, url: str, arrays: dict[ua.NodeId, _Array]) -> None:
        await self._server.init()
        self._server.set_endpoint(url)
        self._server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        await self._server.register_namespace("urn:plc")
        for node, array in arrays.items():
            variable = await self._server.nodes.objects.add_variable(node, str(node.Identifier), array.value(None))
            await variable.set_writable(array.is_writable)
        await self._server.start()
        await self._listener().stop()


class _Words(MemoryWords):
    """The program's thread and the server's share these words."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._lock = threading.Lock()

    def read(self, start: int, count: int) -> tuple[int, ...]:
        with self._lock:
            return super().read(start, count)

    def write(self, start: int, words: Sequence[int]) -> None:
        with self._lock:
            super().write(start, words)

    def clear(self) -> None:
        with self._lock:
            self.words[:] = [0] * len(self.words)


class _Array:
    """A variable: some of the words."""

    def __init__(self, words: _Words, first: int, size: int, is_writable: bool) -> None:
        self._words, self._first, self._size = words, first, size
        self.is_writable = is_writable

    def value(self, index_range: str | None) -> ua.Variant:
        """Return elements.

        Raises:
            _RefusedError: there are no such elements.
        """
        offset, count = self._place(index_range)
        return ua.Variant(list(self._words.read(self._first + offset, count)), ua.VariantType.UInt16, is_array=True)

    def write(self, value: ua.Variant | None, index_range: str | None) -> None:
        """Write elements.

        Raises:
            _RefusedError: they cannot be written.
        """
        if not self.is_writable:
            raise _RefusedError(ua.StatusCodes.BadNotWritable)
        if value is None or value.VariantType != ua.VariantType.UInt16 or not isinstance(value.Value, list):
            raise _RefusedError(ua.StatusCodes.BadTypeMismatch)
        offset, count = self._place(index_range)
        if len(value.Value) != count:
            raise _RefusedError(ua.StatusCodes.BadIndexRangeNoData)
        self._words.write(self._first + offset, value.Value)

    def _place(self, index_range: str | None) -> tuple[int, int]:
        """Return the first element of a range such as `7` or `0:15`, and their number."""
        if not index_range:
            return 0, self._size
        first, _, last = index_range.partition(":")
        try:
            offset, end = int(first), int(last or first) + 1
        except ValueError:
            raise _RefusedError(ua.StatusCodes.BadIndexRangeInvalid) from None
        if not 0 <= offset < end <= self._size:
            raise _RefusedError(ua.StatusCodes.BadIndexRangeNoData)
        return offset, end - offset


class _Service(AttributeService):
    """Reads and writes of clients. asyncua's own knows no ranges, and would keep a second copy of the words."""

    def __init__(self, aspace: AddressSpace, arrays: dict[ua.NodeId, _Array]) -> None:
        super().__init__(aspace)
        self._arrays = arrays

    def read(self, params: ua.ReadParameters) -> list[ua.DataValue]:
        """See `AttributeService`."""
        answers = super().read(params)
        for place, item in enumerate(params.NodesToRead):
            array = self._array(item)
            if array is not None:
                answers[place] = _answer(array, item.IndexRange)
        return answers

    async def write(self, params: ua.WriteParameters, user: User = _SERVER) -> list[ua.StatusCode]:
        """See `AttributeService`."""
        return [await self._write(item, user) for item in params.NodesToWrite]

    async def _write(self, item: ua.WriteValue, user: User) -> ua.StatusCode:
        array = self._array(item)
        if array is None:
            [status] = await super().write(ua.WriteParameters(NodesToWrite=[item]), user)
            return status
        try:
            array.write(item.Value.Value, item.IndexRange)
        except _RefusedError as error:
            return error.status
        return ua.StatusCode()

    def _array(self, item: ua.ReadValueId | ua.WriteValue) -> _Array | None:
        return self._arrays.get(item.NodeId) if item.AttributeId == ua.AttributeIds.Value else None


class _RefusedError(Exception):
    """What a client wants is refused.

    Args:
        code: one of `ua.StatusCodes`.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.status = ua.StatusCode(ua.UInt32(code))


def _answer(array: _Array, index_range: str | None) -> ua.DataValue:
    try:
        return ua.DataValue(array.value(index_range))
    except _RefusedError as error:
        return ua.DataValue(StatusCode=error.status)
