"""Runs one worker process per device: starts, watches, restarts and drains them."""

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
from patchline.protocol.errors import MismatchError
from patchline.runtime import container, notify
from patchline.runtime.notify import NotifySocket
from patchline.runtime.parent import end_with_parent

_log = structlog.get_logger(__name__)
_HEALTHY_S = 60.0  # a worker that ran this long is restarted after the first pause again
_POLL_INTERVAL_S = 0.2
_END_TIMEOUT_S = 5.0  # of a killed process
_DRAIN_MARGIN_S = 10.0  # to give jobs back and to disconnect
_MAX_DOUBLINGS = 30  # a float overflows after 1,023


class Cause(StrEnum):
    """Why a worker was restarted. A closed set: the label of a metric."""

    ENDED = "ended"
    STUCK = "stuck"


OnRestart = Callable[[Device, Cause], None]


@dataclass
class WorkerProcess:
    """The process of one device and its history. Its notifications show its progress (see `notify`)."""

    device: Device
    command: Sequence[str]
    cores: frozenset[int] | None
    share_of: int  # the number of processes that share the limits of the container
    settings: config.Worker
    on_restart: OnRestart
    notifications: NotifySocket = field(default_factory=NotifySocket)
    process: subprocess.Popen[bytes] | None = None
    ready: bool = False
    started_at: float = 0.0
    last_notified_at: float = 0.0
    restart_at: float = 0.0
    failures: int = 0
    mismatched: bool = False  # it has no use for another start, see MismatchError
    killed_because: Cause | None = None  # it was killed, and has not ended yet

    def watch(self, now: float) -> None:
        """Start the process when it is due. Detect that it has ended or is stuck, and schedule its restart."""
        if self.mismatched:
            return
        if self.process is None:
            if now >= self.restart_at:
                self._start(now)
            return
        self._read_notifications(now)
        exit_code = self.process.poll()
        if exit_code == MismatchError.exit_code and self._reap():
            self.mismatched = True
            _log.error("worker cannot serve and is not started again, see its error", device=str(self.device))
        elif exit_code is not None:
            self._end(now, self.killed_because or Cause.ENDED, exit_code)
        elif self.killed_because is None and now - self.last_notified_at > (
            self.settings.stuck_s if self.ready else self.settings.start_s
        ):
            self._end(now, Cause.STUCK, None)

    def _start(self, now: float) -> None:
        variables = {"NOTIFY_SOCKET": self.notifications.address, container.SHARE_VARIABLE: str(self.share_of)}
        try:
            self.process = subprocess.Popen(
                self.command,
                env=os.environ | variables,
                start_new_session=True,  # Ctrl-C reaches only the supervisor, which then drains all workers
                preexec_fn=end_with_parent(self._pin_to_cores),
            )
        except OSError as error:  # no memory or no process is left, and the workers of other devices end with this one
            self.failures += 1
            details = {"device": str(self.device), "reason": error.strerror, "retry_in_s": self._plan_start(now)}
            _log.error("worker cannot be started, trying again", **details)
            return
        self.notifications.read()  # discard those of the previous process
        self.started_at = self.last_notified_at = now
        self.ready = False

    def _pin_to_cores(self) -> None:
        if self.cores is not None:
            with contextlib.suppress(OSError):  # the container has been given other cores meanwhile
                os.sched_setaffinity(0, self.cores)

    def _read_notifications(self, now: float) -> None:
        states = self.notifications.read()
        if states:
            self.last_notified_at = now
        self.ready = self.ready or notify.READY in states

    def _end(self, now: float, cause: Cause, exit_code: int | None) -> None:
        """End the process group and schedule the restart."""
        if not self._reap():
            self.killed_because = cause
            return
        self.killed_because = None
        self.failures = 1 if now - self.started_at > _HEALTHY_S else self.failures + 1
        pause_s = self._plan_start(now)
        self.on_restart(self.device, cause)
        details = {"device": str(self.device), "code": exit_code, "failures": self.failures, "restart_in_s": pause_s}
        _log.error(f"worker {cause}", **details)

    def _plan_start(self, now: float) -> float:
        """Plan the next start. Return the pause before it, in seconds."""
        doublings = min(self.failures - 1, _MAX_DOUBLINGS)
        pause_s: float = min(self.settings.restart_pause_max_s, self.settings.restart_pause_s * 2**doublings)
        self.restart_at = now + pause_s
        return pause_s

    def _reap(self) -> bool:
        """Kill the process group, since a child of the worker may still hold the device. Return False if it stays."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        try:
            self.process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:  # in uninterruptible sleep; another worker would join it there
            _log.error("worker cannot be ended, waiting for it", device=str(self.device), pid=self.process.pid)
            return False
        self.process = None
        return True


def supervise(
    commands: Mapping[Device, Sequence[str]],
    settings: config.Worker,
    on_restart: OnRestart,
    stop: threading.Event,
    clock: Callable[[], float] = time.monotonic,
    on_turn: Callable[[], None] = lambda: None,
) -> None:
    """Keep one process per device running until `stop` is set, then drain them all.

    Args:
        commands: the command line of each device's worker.
        settings: time limits and pauses.
        on_restart: called each time that a process ended or was stuck.
        stop: ends the supervisor.
        clock: returns seconds.
        on_turn: called each time that it has looked at all processes.

    Raises:
        MismatchError: no worker can serve, and none would after another start.
    """
    shares = {device: _share_of_cores(device, list(commands)) for device in commands}
    workers = [
        WorkerProcess(device, command, shares[device], len(commands), settings, on_restart)
        for device, command in commands.items()
    ]
    notify.send(notify.READY)
    while not stop.is_set() and not all(worker.mismatched for worker in workers):
        for worker in workers:
            worker.watch(clock())
        notify.send(notify.ALIVE)
        on_turn()
        stop.wait(_POLL_INTERVAL_S)
    notify.send(notify.STOPPING)
    _drain([worker.process for worker in workers if worker.process is not None], settings.drain_s + _DRAIN_MARGIN_S)
    for worker in workers:
        worker.notifications.close()
    if all(worker.mismatched for worker in workers):
        raise MismatchError("no device can serve any category; the errors of the workers say why")


def worker_command(arguments: Sequence[str]) -> list[str]:
    """Return the command line of `patchline worker` with the given arguments."""
    return [sys.executable, "-m", "patchline", "worker", *arguments]


def _share_of_cores(device: Device, devices: list[Device]) -> frozenset[int] | None:
    """Divide the cores among the CPU devices. Return None for no restriction."""
    cpu_devices = [other for other in devices if other.kind == "cpu"]
    cores = sorted(os.sched_getaffinity(0))
    if device.kind != "cpu" or len(cpu_devices) > len(cores):
        return None
    return frozenset(cores[cpu_devices.index(device) :: len(cpu_devices)])


def _drain(processes: list[subprocess.Popen[bytes]], timeout_s: float) -> None:
    for process in processes:
        process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _log.error("worker did not drain in time, killing it", pid=process.pid)
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_TIMEOUT_S)
