#!/bin/sh
# pymodbus 3.16.1: the TCP server answers only the first of requests that arrive together. The others are dropped
# without an answer or a line in the log, writes too. The receive buffer of a connection is emptied when an answer is
# sent, and one request is taken out of it at a time. Modbus over TCP numbers its requests so that several can be on
# their way.
#
# Seen: of 10 writes that arrive together 1 is answered, and 1 is done.
#
# Patchline has a server of its own for PLCs that poll it (docs/decisions.md, 103).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check pymodbus==3.16.1
"$folder/env/bin/python" - <<'PYTHON'
import asyncio
import contextlib
import struct
import sys

from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

WRITES = 10


def frame(number, request):
    return struct.pack(">HHHB", number, 0, len(request) + 1, 1) + request


async def receive(reader):
    _, _, length, _ = struct.unpack(">HHHB", await reader.readexactly(7))
    return await reader.readexactly(length - 1)


async def main():
    registers = SimData(0, count=100, values=0, datatype=DataType.REGISTERS)
    server = ModbusTcpServer(SimDevice(0, registers), address=("127.0.0.1", 0))
    await server.serve_forever(background=True)
    port = server.transport.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"".join(frame(number, struct.pack(">BHH", 6, number, 7)) for number in range(WRITES)))
    answers = 0
    with contextlib.suppress(asyncio.TimeoutError):
        while True:
            await asyncio.wait_for(receive(reader), 3)
            answers += 1
    writer.write(frame(WRITES, struct.pack(">BHH", 3, 0, WRITES)))
    done = sum(struct.unpack(f">{WRITES}H", (await receive(reader))[2:])) // 7
    print(f"of {WRITES} writes that arrive together: answered {answers}, done {done}")
    return answers, done


sys.exit(0 if asyncio.run(main()) == (1, 1) else 1)
PYTHON
