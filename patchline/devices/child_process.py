"""Child processes that may never end: a process in uninterruptible sleep, as in the driver of a hanging chip, is not
ended by SIGKILL, and a wait for it can take minutes or for ever. All waits here are bounded.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Mapping, Sequence

END_TIMEOUT_S = 5.0


class UnkillableProcesses:
    """Children that were killed and have not ended. Thread-safe."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()

    def kill(self, process: subprocess.Popen[bytes], timeout_s: float | None = None) -> bool:
        """Kill a process and wait for its end. Return False if it does not come in time; it is remembered then."""
        process.kill()
        try:
            process.wait(END_TIMEOUT_S if timeout_s is None else timeout_s)
        except subprocess.TimeoutExpired:
            with self._lock:
                self._processes.append(process)
            return False
        return True

    def pids(self) -> list[int]:
        """Return the processes that still have not ended."""
        with self._lock:
            self._processes = [process for process in self._processes if process.poll() is None]
            return [process.pid for process in self._processes]


def run(
    command: Sequence[str],
    timeout_s: float,
    unkillable: UnkillableProcesses,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end, like `subprocess.run`, which waits for a killed command without bounds.

    Raises:
        OSError: it cannot be started.
        subprocess.TimeoutExpired: it took too long. It was killed, and may be among `unkillable`.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    try:
        output, errors = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        unkillable.kill(process)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)
