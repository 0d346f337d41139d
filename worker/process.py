"""One worker process: one device, its lanes, and one connection to RabbitMQ."""

from __future__ import annotations

import os
import socket
import threading
import time

import cv2
import structlog

from patchline import config
from patchline.banks import serving
from patchline.broker.base import Consumer
from patchline.devices.backbone import Device
from patchline.inspection.inspector import Inspector
from patchline.inspection.search import exact_search
from patchline.protocol import topology
from patchline.protocol.errors import PatchlineError, SetupError
from patchline.runtime import connections, notify
from patchline.runtime.health import Health
from patchline.worker import verdict_cache
from patchline.worker.heartbeats import Heartbeats
from patchline.worker.lane import Lane, SuspectLane
from patchline.worker.metrics import Metrics
from patchline.worker.shared_exclusive_lock import SharedExclusiveLock
from patchline.worker.verdict_factory import VerdictFactory

_log = structlog.get_logger(__name__)
_WATCH_INTERVAL_S = 0.5
_EXTRA_LANES = 2  # inspect while the lane of a core waits for the GIL or for the I/O thread of RabbitMQ
_CHIP_CONCURRENCY = 2  # a chip runs one image at a time; the next one is prepared meanwhile
_LANES_PER_INSPECTION = 3  # two of three may wait for RabbitMQ, whose disk may be slow


class WorkerFailedError(PatchlineError):
    """A lane ended unexpectedly. The process exits, and its supervisor restarts it."""


def run(
    settings: config.Config, device: Device, categories: list[str], metrics_port: int, stop: threading.Event
) -> None:
    """Inspect jobs on a device until `stop` is set, then drain.

    Args:
        settings: the configuration.
        device: the device of this process.
        categories: the names of the categories to serve. If empty, all that have a memory bank.
        metrics_port: on `worker.metrics_host`; 0 picks a free port.
        stop: ends the worker. Lanes complete their current job; all other jobs return to the queue.

    Raises:
        SetupError: a category, model or memory bank cannot be used.
        BrokerError: the broker cannot be used.
        WorkerFailedError: a lane crashed.
    """
    concurrency = _concurrency(settings.worker, device)
    lane_count = settings.worker.lanes or _LANES_PER_INSPECTION * concurrency
    served = categories or _fitted_categories(settings)
    metrics, health = Metrics(str(device), served), Health(settings.worker.stuck_s)
    metrics.set_queue_limit(topology.VERDICTS, settings.broker.verdicts_max_length)
    port = metrics.serve(settings.worker.metrics_host, metrics_port, health)
    cache = verdict_cache.connect(settings.redis, metrics.redis_failed)
    settings.broker.certificates.check("broker", settings.broker.url)
    inspectors = _load_inspectors(settings, served, device, concurrency, metrics)
    if device.kind == "ascend":
        threading.Thread(target=metrics.watch_chip, args=(device.number, stop), name="chip", daemon=True).start()
    name = f"{socket.gethostname()}:{device}:{os.getpid()}"
    heartbeats = Heartbeats(lane_count + 1)
    with connections.connect(settings, name) as broker:
        connections.declare(broker, settings, connections.plant(settings))
        jobs = broker.consume(topology.JOBS, prefetch=lane_count + concurrency)
        suspects = broker.consume(topology.SUSPECTS, prefetch=1)
        health.is_consuming = lambda: broker.connected and jobs.subscribed and suspects.subscribed
        lock = SharedExclusiveLock(concurrency, heartbeats.beat)
        verdicts = VerdictFactory(name, str(device), connections.now_ms)

        def lane(kind: type[Lane], queue: Consumer) -> Lane:
            limit, pictures = settings.broker.max_attempts, settings.worker.pictures
            return kind(queue, inspectors, lock, broker, verdicts, cache, metrics, heartbeats, stop, limit, pictures)

        lanes = [*(lane(Lane, jobs) for _ in range(lane_count)), lane(SuspectLane, suspects)]
        _log.info("worker ready", device=str(device), categories=list(inspectors), lanes=lane_count, metrics_port=port)
        _run_lanes(lanes, heartbeats, health, stop, settings.worker.drain_s)
        jobs.cancel()
        suspects.cancel()
    cache.close()
    for inspector in inspectors.values():
        inspector.backbone.close()
    _log.info("worker stopped", device=str(device))


def _concurrency(limits: config.Worker, device: Device) -> int:
    """Return how many images are inspected at the same time. No more than there are lanes, if those are configured."""
    if limits.concurrency:
        return limits.concurrency
    cores = len(os.sched_getaffinity(0))
    default = cores + min(cores, _EXTRA_LANES) if device.kind == "cpu" else _CHIP_CONCURRENCY
    return min(default, limits.lanes or default)


def _fitted_categories(settings: config.Config) -> list[str]:
    """Return the configured categories that have a memory bank. Raise SetupError if there is none."""
    banks = settings.paths.memory_banks
    names = [name for name in settings.categories if (banks / name).is_dir()]
    if not names:
        raise SetupError(
            f"{banks}: no memory bank found; create one with: patchline fit --category NAME FOLDER_OF_GOOD_IMAGES"
        )
    return names


def _load_inspectors(
    settings: config.Config, categories: list[str], device: Device, concurrency: int, metrics: Metrics
) -> dict[str, Inspector]:
    inspectors = serving.load(settings, categories, device, concurrency, metrics.device_failed)
    for category, inspector in inspectors.items():
        median = inspector.bank.manifest.calibration.held_out_median
        metrics.set_calibration(category, median, inspector.thresholds.fail)
    return inspectors


def _run_lanes(
    lanes: list[Lane], heartbeats: Heartbeats, health: Health, stop: threading.Event, drain_s: float
) -> None:
    """Run the lanes until `stop` is set, then wait at most `drain_s` seconds for their current jobs."""
    threads = [
        threading.Thread(target=_run_lane, args=(lane,), name=f"lane-{i}", daemon=True) for i, lane in enumerate(lanes)
    ]
    cv2.setNumThreads(1)
    for thread in threads:
        thread.start()
    notify.send(notify.READY)
    while not stop.wait(_WATCH_INTERVAL_S):
        if not all(thread.is_alive() for thread in threads):
            raise WorkerFailedError("a lane has ended unexpectedly; see its error above")
        if heartbeats.all_received():
            health.record_progress()
            notify.send(notify.ALIVE)
    notify.send(notify.STOPPING)
    deadline = time.monotonic() + drain_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _run_lane(lane: Lane) -> None:
    exact_search.set_threads(1)  # the lanes are the parallelism: each keeps one core busy
    lane.run()
