"""The memory of a simulated belt's PLC: one program, and a server of Modbus, S7 or OPC UA that shares its words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from patchline.plc.register_map import Layout

HOST = "127.0.0.1"
BLOCK = 1  # number of the data block of S7
GATE_NODE, PLC_NODE = 'ns=2;s="Patchline"."gate"', 'ns=2;s="Patchline"."plc"'
_ADDRESSES = {"modbus": f"modbus:{HOST}:{{}}", "s7": f"s7:{HOST}:{{}}/{BLOCK}", "opcua": f"opcua:{HOST}:{{}}"}
KINDS = tuple(_ADDRESSES)


class PlcServer(Protocol):
    """Words that the PLC's program and a server on loopback share. The program may use them before it listens."""

    @property
    def port(self) -> int:
        """The TCP port of the server."""
        ...

    def read(self, start: int, count: int) -> tuple[int, ...]:
        """Return words, for the program."""
        ...

    def write(self, start: int, words: Sequence[int]) -> None:
        """Write words at once, for the program."""
        ...

    def listen(self) -> None:
        """Begin to serve the words."""
        ...

    def close(self) -> None:
        """End all connections, and give the port back."""
        ...


def opener(kind: str, port: int, layout: Layout) -> Callable[[], PlcServer]:
    """Return what makes a server whose words are all 0; again after it was closed. Needs the package of its protocol.

    Args:
        kind: one of `KINDS`.
        port: TCP port on loopback.
        layout: where the two areas are.
    """
    size = layout.plc + layout.plc_words
    if kind == "s7":
        from patchline.plant.s7_server import S7Server

        return lambda: S7Server(HOST, port, BLOCK, size)
    if kind == "opcua":
        from patchline.plant.opcua_arrays import OpcUaArrays

        return OpcUaArrays(HOST, port, layout, {GATE_NODE: layout.gate, PLC_NODE: layout.plc}).cleared
    from patchline.plant.modbus_registers import ModbusRegisters

    return lambda: ModbusRegisters(HOST, port, size, range(layout.gate, layout.gate + layout.gate_words))


def gate_address(kind: str, port: int) -> str:
    """Return what a gate has to be given as `--output`. For OPC UA the configuration has the two nodes."""
    return _ADDRESSES[kind].format(port)
