"""Starts the simulator of a belt as a process, and finds out whether its camera is there."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from patchline.plant.plc_server import HOST
from patchline.plc.register_map import Layout
from patchline.protocol.errors import SetupError

_END_S = 60.0


def simulator_command(layout: Layout, **options: object) -> list[str]:
    """Return the command of belt and PLC. The belt stands until `run`.

    Args:
        layout: where the areas are that gate and PLC share. The gate's has to start at word 0.
        options: the others of `python -m patchline.plant.simulator`.
    """
    options |= {"slots": layout.slots, "plc_start": layout.plc}
    arguments = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return [sys.executable, "-m", "patchline.plant.simulator", "--hold", *arguments]


@contextmanager
def simulator(log: Path, layout: Layout, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run belt and PLC until the block ends. They also end if this process is killed.

    Args:
        log: file for what it says.
        layout: see `simulator_command`.
        options: see `simulator_command`.
    """
    command = simulator_command(layout, **options)
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True)
    try:
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()  # it ends with its input
        process.wait(_END_S)


def run_belt(process: subprocess.Popen[bytes]) -> None:
    """Let the belt run."""
    if process.stdin is not None:
        process.stdin.write(b"run\n")
        process.stdin.flush()


def wait_for_camera(port: int, timeout_s: float) -> None:
    """Wait until somebody hears the triggers.

    Args:
        port: UDP port on loopback.
        timeout_s: limit.

    Raises:
        SetupError: nobody does in time.
    """
    deadline = time.monotonic() + timeout_s
    with socket.socket(type=socket.SOCK_DGRAM) as trigger:
        trigger.connect((HOST, port))
        while time.monotonic() < deadline:
            with contextlib.suppress(ConnectionRefusedError):
                trigger.send(b"")
                time.sleep(0.1)  # the answer to a datagram comes with the next one
                trigger.send(b"")
                return
    raise SetupError(f"the camera did not start within {timeout_s:g} s; see its log")
