"""PLCs for tests: servers in processes of their own, which a test stops, starts again and freezes.

A row of `PLCS` is all that a protocol needs to be held to the contract of `WordMemory`
(tests/system/test_plc_words.py).
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from patchline.plc.ethernet_ip import EthernetIpWords
from patchline.plc.modbus_client import ModbusClient
from patchline.plc.modbus_server import ModbusServer
from patchline.plc.s7 import S7Words
from patchline.plc.words import PlcError, WordMemory
from tests import opcua_peers

SIZE = 512  # words of each PLC, all writable
START_S = 120
TIMEOUT_S = 1.0  # of a call: more than in a plant, since the machine may be busy
DATA_BLOCK = 7
TAG = f"WORDS=INT[{SIZE}]"


@dataclass(frozen=True)
class Plc:
    """A kind of PLC, and our client for it.

    Attributes:
        connect: returns a new client for the server on 127.0.0.1 and this port.
        command: returns the command that serves SIZE words on this port until it is killed. The folder is the test's.
        writes: number of long writes among which halves are searched.
    """

    connect: Callable[[int], WordMemory]
    command: Callable[[int, Path], list[str]]
    writes: int = 3000


def in_python(name):
    """Return a command for `Plc`: the entry `name` of `SERVE`, in a Python process."""
    return lambda port, _folder: [sys.executable, "-m", "tests.plc_servers", name, str(port)]


def in_c(source, *libraries):
    """Return a command for `Plc`: a program of tests/ that is compiled first, and gets the port and SIZE."""
    return lambda port, folder: [compiled(source, folder, *libraries), str(port), str(SIZE)]


def cpppo(port, _folder):
    """Return the command of cpppo's server of EtherNet/IP."""
    return [sys.executable, "-m", "cpppo.server.enip", "--no-config", "--no-udp", "-a", f"127.0.0.1:{port}", TAG]


def compiled(source, folder, *libraries):
    """Compile a C program of tests/ into the folder. Return its path. Without compiler or library, skip the test."""
    program = folder / Path(source).stem
    if not program.exists():
        if shutil.which("gcc") is None or not Path("/usr/include/modbus/modbus.h").exists():
            (pytest.fail if os.environ.get("CI") else pytest.skip)("needs gcc and libmodbus-dev")
        links = [f"-l{library}" for library in libraries]
        subprocess.run(["gcc", "-Wall", "-Werror", "-o", program, Path(__file__).parent / source, *links], check=True)
    return str(program)


class Server:
    """One PLC as a process. It runs after `start`."""

    def __init__(self, plc, port, folder):
        self.plc, self.port = plc, port
        self._command = plc.command(port, folder)
        self._process = None

    def connect(self):
        """Return a new client."""
        return self.plc.connect(self.port)

    def start(self):
        """Start the process. Return when it serves."""
        self._process = subprocess.Popen(self._command, env=os.environ | {"PYTHONPATH": str(Path.cwd())})
        limit = time.monotonic() + START_S
        with contextlib.closing(self.connect()) as client:
            while not _serves(client):
                assert self._process.poll() is None, "the PLC ended"
                assert time.monotonic() < limit, "the PLC does not serve"
                time.sleep(0.02)

    @property
    def is_running(self):
        return self._process is not None

    def stop(self):
        """Kill the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self):
        """Stop the process: its port still accepts connections, and nothing answers."""
        self._process.send_signal(signal.SIGSTOP)
        limit = time.monotonic() + START_S
        while not all(state == "T" for state in self._thread_states()):
            assert time.monotonic() < limit, "the PLC does not freeze"

    def thaw(self):
        """Let the process go on, if it runs."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def _thread_states(self):
        threads = Path(f"/proc/{self._process.pid}/task").glob("*/stat")
        return [thread.read_text().rpartition(")")[2].split()[0] for thread in threads]


def _serves(client):
    try:
        client.read(0, 1)
    except PlcError:
        return False
    return True


def _serve_modbus(port):
    ModbusServer("127.0.0.1", port, SIZE, range(SIZE)).read(0, 1)
    signal.pause()


def _serve_s7(port):
    from snap7.server import Server as S7Server
    from snap7.type import SrvArea

    plc = S7Server()
    plc.register_area(SrvArea.DB, DATA_BLOCK, bytearray(2 * SIZE))
    plc.start_to("127.0.0.1", port)
    signal.pause()


PLCS = {
    "modbus": Plc(lambda port: ModbusClient("127.0.0.1", port, timeout_s=TIMEOUT_S), in_python("modbus")),
    "libmodbus": Plc(lambda port: ModbusClient("127.0.0.1", port, timeout_s=TIMEOUT_S), in_c("modbus_plc.c", "modbus")),
    "s7": Plc(lambda port: S7Words("127.0.0.1", DATA_BLOCK, port=port, timeout_s=TIMEOUT_S), in_python("s7")),
    # Its parser is a state machine in Python: a long write took 20 to 450 ms on a busy machine.
    "cpppo": Plc(lambda port: EthernetIpWords("127.0.0.1", "WORDS", port, timeout_s=2.0), cpppo, writes=150),
    "opcua": Plc(
        lambda port: opcua_peers.client(port, SIZE, namespace=2),
        lambda port, folder: opcua_peers.asyncua_plc(port, folder, SIZE),
        writes=300,
    ),
    "node-opcua": Plc(
        lambda port: opcua_peers.client(port, SIZE, namespace=1),
        lambda port, folder: opcua_peers.node_plc(port, folder, SIZE),
        writes=300,
    ),
}
SERVE = {"modbus": _serve_modbus, "s7": _serve_s7}

if __name__ == "__main__":
    SERVE[sys.argv[1]](int(sys.argv[2]))
