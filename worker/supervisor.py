"""A worker process for each device: started, started again when it ends, and drained together."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from inspection.backbone import Device

_log = structlog.get_logger(__name__)
_BACKOFF_S = (1.0, 60.0)
_HEALTHY_S = 60.0  # a worker that ran so long starts again at once
_POLL_S = 0.2


@dataclass
class Child:
    """One device's process and its history."""

    device: Device
    command: Sequence[str]
    cores: frozenset[int] | None
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_again_at: float = 0.0
    failures: int = 0

    def start(self, now: float) -> None:
        """Start the process on its share of the cores."""
        cores = self.cores
        self.process = subprocess.Popen(
            self.command,
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which then drains everyone
            preexec_fn=None if cores is None else lambda: os.sched_setaffinity(0, cores),
        )
        self.started_at = now

    def watch(self, now: float) -> None:
        """Start the process when it is due; see that it has ended, and when it shall start again."""
        if self.process is None:
            if now >= self.start_again_at:
                self.start(now)
            return
        code = self.process.poll()
        if code is None:
            return
        self.failures = 1 if now - self.started_at > _HEALTHY_S else self.failures + 1
        first, longest = _BACKOFF_S
        pause_s = min(longest, first * 2 ** (self.failures - 1))
        self.start_again_at = now + pause_s
        _end_group(self.process.pid)
        self.process = None
        _log.error("worker ended", device=str(self.device), code=code, failures=self.failures, again_in_s=pause_s)


def supervise(
    commands: Mapping[Device, Sequence[str]],
    drain_s: float,
    stop: threading.Event,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Keep one process per device running until `stop` is set, then drain them all.

    Args:
        commands: what to run for each device.
        drain_s: how long the processes have to end after SIGTERM; then they are killed and the broker has their jobs.
        stop: asks for the end.
        clock: seconds.
    """
    children = [Child(device, command, _share(device, list(commands))) for device, command in commands.items()]
    while not stop.is_set():
        for child in children:
            child.watch(clock())
        stop.wait(_POLL_S)
    _drain([child.process for child in children if child.process is not None], drain_s)


def worker_command(arguments: Sequence[str]) -> list[str]:
    """This program's own `worker` subcommand, in a new process."""
    return [sys.executable, "-m", "patchline", "worker", *arguments]


def _share(device: Device, devices: list[Device]) -> frozenset[int] | None:
    """CPU devices divide the cores; the process of another device needs few and may use all."""
    of_cpu = [each for each in devices if each.kind == "cpu"]
    cores = sorted(os.sched_getaffinity(0))
    if device.kind != "cpu" or len(of_cpu) > len(cores):
        return None
    return frozenset(cores[of_cpu.index(device) :: len(of_cpu)])


def _end_group(leader: int) -> None:
    """What a worker that died has left behind, such as the host of its device, must not keep the device."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _drain(processes: list[subprocess.Popen[bytes]], drain_s: float) -> None:
    for process in processes:
        process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + drain_s
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _log.error("worker did not drain in time and is killed", pid=process.pid)
            process.kill()
            process.wait()
