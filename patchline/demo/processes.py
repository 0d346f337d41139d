"""The processes of a demo: patchline commands with their output in files, until a block ends."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from patchline.protocol.errors import SetupError
from patchline.services import server

_START_S = 60.0


@dataclass(frozen=True)
class Processes:
    """Starts processes for the configuration in a folder.

    Attributes:
        out: has `config.yaml`, and gets `<name>.jsonl` and `<name>.log` of each process.
        environment: variables for them, such as the urls of the servers.
    """

    out: Path
    environment: Mapping[str, str]

    @contextmanager
    def running(self, name: str, module: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run `python -m module` until the block ends."""
        command = [sys.executable, "-m", module, *arguments, "--config", str(self.out / "config.yaml")]
        with (self.out / f"{name}.jsonl").open("wb") as output, (self.out / f"{name}.log").open("wb") as errors:
            guard = server.start_guarded(command, output, errors, self.environment)
            try:
                yield guard
            finally:
                server.stop_guarded(guard)


def wait_until_ready(ports: Sequence[int], what: str) -> None:
    """Wait until `/readyz` answers on all ports.

    Raises:
        SetupError: it does not in time.
    """
    deadline = time.monotonic() + _START_S
    while not all(server.responds(f"http://{server.HOST}:{port}/readyz") for port in ports):
        if time.monotonic() > deadline:
            raise SetupError(f"{what} did not start within {_START_S:g} s; see the logs")
        time.sleep(0.1)
