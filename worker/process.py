"""One worker process: one device, its lanes, one connection to the broker."""

from __future__ import annotations

import os
import socket
import threading
import time
from dataclasses import replace

import cv2
import structlog

from patchline import config
from patchline.banks import serving
from patchline.devices.backbone import Device
from patchline.inspection.search import exact_search
from patchline.protocol import topology
from patchline.protocol.errors import PatchlineError, SetupError
from patchline.runtime import connections, notify
from patchline.runtime.health import Health
from patchline.worker import recent
from patchline.worker.answer import Signature
from patchline.worker.lane import Lane
from patchline.worker.metrics import Metrics
from patchline.worker.pulse import Pulse
from patchline.worker.turns import Turns

_log = structlog.get_logger(__name__)
_WATCH_S = 0.5
_FILLING = 2  # lanes for the gaps, where one waits for Python's lock or for RabbitMQ's thread
_LANES_EACH = 3  # for each that inspects: the others wait for RabbitMQ, which may have a slow disk


class WorkerFailedError(PatchlineError):
    """A lane has ended without being asked to: the process ends, so that its supervisor and its alerts see it."""


def run(settings: config.Config, device: Device, names: list[str], metrics_port: int, stop: threading.Event) -> None:
    """Serve categories on a device until `stop` is set, then drain.

    Args:
        settings: the configuration.
        device: which this process has for itself.
        names: of the categories to serve; all that have a memory bank where empty.
        metrics_port: on `worker.metrics_host`; a free one where it is 0.
        stop: asks for the end: lanes finish the job in hand, everything else goes back to the queue.

    Raises:
        SetupError: a category, model or memory bank cannot be used.
        BrokerError: the broker cannot be used.
        WorkerFailedError: a lane crashed.
    """
    at_once = _at_once(settings.worker, device)
    count = settings.worker.lanes or _LANES_EACH * at_once
    served = names or fitted(settings)
    metrics, health = Metrics(str(device), served), Health(settings.worker.stuck_s)
    port = metrics.serve(settings.worker.metrics_host, metrics_port, health)
    inspectors = serving.load(settings, served, device, at_once, metrics.device_failed)
    for category, each in inspectors.items():
        metrics.calibrated(category, each.bank.manifest.calibration.held_out_median, each.thresholds.fail)
    if device.kind == "ascend":
        threading.Thread(target=metrics.watch_chip, args=(device.number, stop), name="chip", daemon=True).start()
    name = f"{socket.gethostname()}:{device}:{os.getpid()}"
    signature = Signature(name, str(device), connections.now_ms)
    memory = recent.connect(settings.redis, metrics.redis_failed)
    pulse, attempts = Pulse(count + 1), settings.broker.max_attempts
    with connections.connect(settings, name) as broker:
        connections.declare(broker, settings, connections.plant(settings))
        jobs = broker.consume(topology.JOBS, prefetch=count + at_once)
        suspects = broker.consume(topology.SUSPECTS, prefetch=1)
        health.consumes = lambda: broker.connected and jobs.subscribed
        turns = Turns(at_once, pulse.beat)
        lane = Lane(signature, inspectors, broker, jobs, memory, metrics, pulse, turns, attempts, stop)
        _log.info("worker serves", device=str(device), categories=list(inspectors), lanes=count, metrics_port=port)
        lane = replace(lane, pictures=settings.worker.pictures)
        lanes = [lane] * count + [replace(lane, jobs=suspects, of_suspects=True)]
        _carry_on(lanes, health, settings.worker.drain_s)
        jobs.cancel()
        suspects.cancel()
    memory.close()
    for each in inspectors.values():
        each.backbone.close()
    _log.info("worker has drained", device=str(device))


def _at_once(limits: config.Worker, device: Device) -> int:
    """A CPU: one for each core, and a few that fill the gaps. A chip takes one at a time: one more is prepared."""
    cores = len(os.sched_getaffinity(0))
    ordinary = cores + min(cores, _FILLING) if device.kind == "cpu" else 2
    return limits.at_once or min(ordinary, limits.lanes or ordinary)


def fitted(settings: config.Config) -> list[str]:
    """The categories of the configuration that have a memory bank. Raises SetupError when there are none."""
    banks = settings.paths.memory_banks
    names = [name for name in settings.categories if (banks / name).is_dir()]
    if not names:
        raise SetupError(
            f"{banks} holds no memory bank; make one with: patchline fit --category NAME FOLDER_OF_GOOD_IMAGES"
        )
    return names


def _carry_on(lanes: list[Lane], health: Health, drain_s: float) -> None:
    """Run the lanes until they shall stop; give the jobs in hand `drain_s` seconds to end."""
    threads = [
        threading.Thread(target=_run, args=(lane,), name=f"lane-{i}", daemon=True) for i, lane in enumerate(lanes)
    ]
    cv2.setNumThreads(1)
    for thread in threads:
        thread.start()
    notify.tell(notify.READY)
    stop, pulse = lanes[0].stop, lanes[0].pulse
    while not stop.wait(_WATCH_S):
        if not all(thread.is_alive() for thread in threads):
            raise WorkerFailedError("a lane has ended; its error stands above")
        if pulse.taken():
            health.stepped()
            notify.tell(notify.ALIVE)
    notify.tell(notify.STOPPING)
    deadline = time.monotonic() + drain_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _run(lane: Lane) -> None:
    # Each lane is a thread that keeps one core busy; its libraries must not start more.
    exact_search.set_threads(1)
    lane.run()
