"""Words of a PLC that is a Modbus TCP server: its holding registers. The only module that knows pymodbus."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from pymodbus.client import ModbusTcpClient
from pymodbus.exceptions import ModbusException
from pymodbus.pdu import ModbusPDU

from patchline.plc.words import PlcError, PlcRefusal

PORT = 502
UNIT = 1
TIMEOUT_S = 0.2

logging.getLogger("pymodbus").setLevel(logging.CRITICAL)  # it logs what is raised here


class ModbusClient:
    """A `WordMemory` of holding registers 0 to 65535.

    A call connects first if there is no connection. It takes at most `timeout_s` to connect and as long again to hear
    an answer; an answer that comes in pieces may take twice that. After an error the connection is closed, so that a
    late answer belongs to no later call.

    Args:
        host: address of the PLC. A name is looked up at every connection, for as long as the resolver takes.
        port: its TCP port.
        unit: number of the device behind the address, 0 to 255. Most PLCs do not care.
        timeout_s: time limit in seconds.
    """

    def __init__(self, host: str, port: int = PORT, unit: int = UNIT, timeout_s: float = TIMEOUT_S) -> None:
        self._name = f"Modbus {host}:{port}"
        self._unit = unit
        self._client = ModbusTcpClient(host, port=port, timeout=timeout_s, retries=0)

    def read(self, start: int, count: int) -> tuple[int, ...]:
        """See `WordMemory`."""
        answer = self._request(
            lambda: self._client.read_holding_registers(start, count=count, device_id=self._unit),
        )
        if len(answer.registers) != count:
            raise self._failure(f"{len(answer.registers)} words instead of {count}")
        return tuple(answer.registers)

    def write(self, start: int, words: Sequence[int]) -> None:
        """See `WordMemory`."""
        answer = self._request(
            lambda: self._client.write_registers(start, list(words), device_id=self._unit),
        )
        if (answer.address, answer.count) != (start, len(words)):
            raise self._failure(f"{answer.count} words written at {answer.address}, not {len(words)} at {start}")

    def close(self) -> None:
        """See `WordMemory`."""
        self._client.close()  # type: ignore[no-untyped-call]

    def _request(self, send: Callable[[], ModbusPDU]) -> ModbusPDU:
        try:
            answer = send()
        except (ModbusException, OSError) as error:
            raise self._failure(str(error)) from error
        if answer.isError():  # the connection is sound, and stays
            raise PlcRefusal(f"{self._name}: refused with exception code {answer.exception_code}")
        return answer

    def _failure(self, reason: str) -> PlcError:
        self._client.close()  # type: ignore[no-untyped-call]
        return PlcError(f"{self._name}: {reason}")
