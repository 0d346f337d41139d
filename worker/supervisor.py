"""A worker process for each device: started, watched, started again when it ends or is stuck, and drained together."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import structlog

from patchline import config
from patchline.devices.backbone import Device
from patchline.runtime import notify
from patchline.runtime.notify import Notices

_log = structlog.get_logger(__name__)
_HEALTHY_S = 60.0  # a worker that ran so long starts again after the first pause
_POLL_S = 0.2


class Cause(StrEnum):
    """Why a worker was started again: a closed set, for a metric's label."""

    ENDED = "ended"
    STUCK = "stuck"


Restarted = Callable[[Device, Cause], None]


@dataclass
class Child:
    """One device's process and its history. Its life is told by its notices, not by its process being there."""

    device: Device
    command: Sequence[str]
    cores: frozenset[int] | None
    limits: config.Worker
    restarted: Restarted
    notices: Notices = field(default_factory=Notices)
    process: subprocess.Popen[bytes] | None = None
    ready: bool = False
    started_at: float = 0.0
    heard_at: float = 0.0
    start_again_at: float = 0.0
    failures: int = 0

    def watch(self, now: float) -> None:
        """Start the process when it is due; see that it has ended or is stuck, and when it shall start again."""
        if self.process is None:
            if now >= self.start_again_at:
                self._start(now)
            return
        self._hear(now)
        code = self.process.poll()
        if code is not None:
            self._end(now, Cause.ENDED, code)
        elif now - self.heard_at > (self.limits.stuck_s if self.ready else self.limits.start_s):
            self._end(now, Cause.STUCK, None)

    def _start(self, now: float) -> None:
        """Start the process on its share of the cores."""
        cores = self.cores
        self.process = subprocess.Popen(
            self.command,
            env=os.environ | {"NOTIFY_SOCKET": self.notices.address},
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which then drains everyone
            preexec_fn=None if cores is None else lambda: os.sched_setaffinity(0, cores),
        )
        self.notices.read()  # an earlier process may have told its last
        self.started_at = self.heard_at = now
        self.ready = False

    def _hear(self, now: float) -> None:
        told = self.notices.read()
        if told:
            self.heard_at = now
        self.ready = self.ready or notify.READY in told

    def _end(self, now: float, cause: Cause, code: int | None) -> None:
        """What a worker has left behind, such as the host of its device, must not keep the device either."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None
        self.failures = 1 if now - self.started_at > _HEALTHY_S else self.failures + 1
        pause_s = min(self.limits.restart_pause_max_s, self.limits.restart_pause_s * 2 ** (self.failures - 1))
        self.start_again_at = now + pause_s
        self.restarted(self.device, cause)
        why = {"device": str(self.device), "code": code, "failures": self.failures, "again_in_s": pause_s}
        _log.error(f"worker {cause}", **why)


def supervise(
    commands: Mapping[Device, Sequence[str]],
    limits: config.Worker,
    restarted: Restarted,
    stop: threading.Event,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Keep one process per device running until `stop` is set, then drain them all.

    Args:
        commands: what to run for each device.
        limits: when a process counts as stuck, the pauses between starts, how long a drain may take.
        restarted: hears of every process that ended or was stuck.
        stop: asks for the end.
        clock: seconds.
    """
    shares = {device: _share(device, list(commands)) for device in commands}
    children = [Child(device, command, shares[device], limits, restarted) for device, command in commands.items()]
    notify.tell(notify.READY)
    while not stop.is_set():
        for child in children:
            child.watch(clock())
        notify.tell(notify.ALIVE)
        stop.wait(_POLL_S)
    notify.tell(notify.STOPPING)
    _drain([child.process for child in children if child.process is not None], limits.drain_s + 5.0)
    for child in children:
        child.notices.close()


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
