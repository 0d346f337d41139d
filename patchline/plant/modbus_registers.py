"""Words of a simulated PLC that is a Modbus server: its holding registers."""

from __future__ import annotations

from patchline.plc.modbus_server import ModbusServer


class ModbusRegisters(ModbusServer):
    """Our server. See `plc_server.PlcServer`. It listens from the program's first cycle on."""

    def listen(self) -> None:
        """See `PlcServer`."""
        self._listening()
