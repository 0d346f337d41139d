"""One worker process: one device, its lanes, and one connection to RabbitMQ."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial

import cv2
import structlog

from patchline import config
from patchline.banks import opening, serving
from patchline.broker.base import Broker, BrokerError, Consumer, TopologyMismatch
from patchline.devices.backbone import Device
from patchline.inspection.inspector import Inspector
from patchline.inspection.search import exact_search
from patchline.protocol import topology
from patchline.protocol.errors import DeviceStuckError, MismatchError, PatchlineError, SetupError
from patchline.runtime import connections, container, garbage, heap, logs, notify
from patchline.runtime.connections import now_ms
from patchline.runtime.health import Health
from patchline.runtime.queue_keeper import QueueKeeper, QueueMetrics
from patchline.runtime.status import BLIND, SERVING, Identity, StatusSender
from patchline.worker import lost_device, new_categories, pictures, retired_queues, sizes, supply, verdict_cache
from patchline.worker.bank_source import BankSource, fitted_categories
from patchline.worker.bank_switch import BankSwitch
from patchline.worker.drain import drain
from patchline.worker.heartbeats import Heartbeats
from patchline.worker.lane import Lane, SuspectLane
from patchline.worker.metrics import Metrics
from patchline.worker.new_categories import NewCategories
from patchline.worker.shadow import ShadowMetrics, Shadows
from patchline.worker.shared_exclusive_lock import SharedExclusiveLock
from patchline.worker.sizes import Sizes
from patchline.worker.supply import Supply
from patchline.worker.verdict_cache import VerdictCache
from patchline.worker.verdict_factory import VerdictFactory

_log = structlog.get_logger(__name__)
_WATCH_INTERVAL_S = 0.5
_BROKER_RETRY_S = 2.0
_FAILED_EXIT_CODE = 2  # as for every error with a text (see `patchline.cli.main`)


class WorkerFailedError(PatchlineError):
    """A lane ended unexpectedly. The process exits, and its supervisor restarts it."""


def run(
    settings: config.Config, device: Device, categories: list[str], metrics_port: int, stop: threading.Event
) -> None:
    """Inspect jobs on a device until `stop` is set, then drain.

    If a lane is still busy then, the process ends here, with exit code 0: see `_leave`.

    Args:
        settings: the configuration.
        device: the device of this process.
        categories: the names of the categories to serve. If empty, all that have a memory bank.
        metrics_port: on `worker.metrics_host`; 0 picks a free port.
        stop: ends the worker. Lanes complete the jobs that have arrived; the others return to the queue.

    Raises:
        SetupError: the configuration, or all of the categories, cannot be used.
        BrokerError: the queues of the broker cannot be used.
        WorkerFailedError: a lane crashed.
    """
    size = sizes.choose(settings, device, container.read())
    copies = opening.copies(settings)
    served = categories or fitted_categories(settings, copies)
    metrics, health = Metrics(str(device), served), Health(settings.worker.stuck_s)
    port = metrics.serve(settings.worker.metrics_host, metrics_port, health)
    cache = verdict_cache.connect(settings.redis, metrics.redis_failed)
    name = f"{socket.gethostname()}:{device}:{os.getpid()}"
    with connections.connect(settings, name) as broker:
        source = BankSource(_loader(settings, served, device, size, metrics), copies)
        inspectors = _load_inspectors(settings, served, source, metrics, health, stop)
        if device.kind == "ascend":
            threading.Thread(target=metrics.watch_chip, args=(device.number, stop), name="chip", daemon=True).start()
        keeper = _keeper(broker, settings, inspectors, metrics)
        _declare_queues(broker, settings, keeper, stop)
        if stop.is_set():
            _log.info("worker stopped before it was ready", device=str(device))
            return
        expected, factory = new_categories.expected(settings, categories), VerdictFactory(name, str(device), now_ms)
        lanes = _make_lanes(settings, broker, inspectors, size, factory, cache, metrics, expected)
        new = _new_categories(source, keeper, lanes, metrics) if expected else None
        _log.info("worker ready", device=str(device), categories=list(inspectors), metrics_port=port, **vars(size))
        statuses = _statuses(settings, name, partial(_report, lanes, health, metrics, inspectors), inspectors)
        with keeper, statuses, _switch(source, lanes, inspectors, metrics, broker, name, new):
            failure, is_busy = _run_lanes(lanes, broker, health, stop, settings.worker)
    cache.close()
    if is_busy:
        _leave(failure)
    for inspector in inspectors.values():
        inspector.backbone.close()
    if failure is not None:
        raise failure


def _statuses(
    settings: config.Config,
    name: str,
    report: Callable[[], tuple[str, dict[str, int]]],
    inspectors: Mapping[str, Inspector],
) -> StatusSender:
    def banks() -> dict[str, str]:
        return {category: inspector.bank.digest or "" for category, inspector in list(inspectors.items())}

    broker, identity = connections.connect(settings, f"{name} status", quiet=True), Identity("worker", name)
    return StatusSender(broker, identity, report, now_ms, settings.broker.make_queues, banks)


def _switch(
    source: BankSource,
    lanes: list[Lane],
    inspectors: dict[str, Inspector],
    metrics: Metrics,
    broker: Broker,
    name: str,
    new: NewCategories | None,
) -> AbstractContextManager[object]:
    """Follow the active versions of the store, if there is one."""
    if source.copies is None:
        return nullcontext()
    switch = BankSwitch(
        source=source,
        versions=source.copies.versions,
        inspectors=inspectors,
        lock=lanes[0].lock,
        metrics=metrics,
        worker=name,
        poll_s=source.loader.settings.banks.poll_s,
        now_ms=now_ms,
        shadows=lanes[0].shadows,
        new=new,
    )
    broker.listen(topology.BANKS, "#", lambda _: switch.look_now())
    return switch


def _new_categories(
    source: BankSource, keeper: QueueKeeper, lanes: list[Lane], metrics: Metrics
) -> NewCategories | None:
    jobs, suspects = lanes[0].jobs, lanes[-1].jobs
    if source.copies is None or not isinstance(jobs, Supply) or not isinstance(suspects, Supply):
        return None
    return NewCategories(source.loader.settings, source.copies, keeper, jobs, suspects, metrics)


def _report(
    lanes: list[Lane], health: Health, metrics: Metrics, inspectors: Mapping[str, Inspector]
) -> tuple[str, dict[str, int]]:
    in_hand = sum(len(lane.in_hand) for lane in {id(lane): lane for lane in lanes}.values())
    holds = {"in_hand": in_hand, "refused_lanes": metrics.backpressure.waiting, "categories": len(inspectors)}
    return SERVING if health.is_ready() else BLIND, holds


def _loader(settings: config.Config, names: list[str], device: Device, size: Sizes, metrics: Metrics) -> serving.Loader:
    for name in names:
        settings.category(name)
    cpus = container.read().cpus
    quota = cpus if cpus < len(os.sched_getaffinity(0)) else None
    hosts = sizes.hosts(settings, names, device)
    prepared = opening.prepared(settings, lambda text: _log.warning("memory banks not shared", reason=text))
    prepared.forget_all_but({*settings.categories, *names})
    return serving.Loader(settings, device, size.concurrency, quota, metrics.device_failed, hosts, prepared.search)


def _load_inspectors(
    settings: config.Config,
    names: list[str],
    source: BankSource,
    metrics: Metrics,
    health: Health,
    stop: threading.Event,
) -> dict[str, Inspector]:
    """Load the categories in parallel. One that cannot be used is left out; raise SetupError if none can be used.

    If the device is lost, wait until it is back before DeviceStuckError is raised, or return if `stop` is set.
    """
    start_s, threads = settings.worker.start_s, min(container.read().cpus, len(names))
    notify.extend_start(start_s)
    try:
        extend = partial(notify.extend_start, start_s)
        loaded = source.loader.load_all(names, stop, threads, extend, source.load)
    except DeviceStuckError as loss:
        lost_device.wait(loss, metrics, health, stop, start_s)
        if stop.is_set():
            return {}
        raise
    if loaded.errors and not loaded.inspectors and not stop.is_set():
        mismatches = all(isinstance(error, MismatchError) for error in loaded.errors.values())
        raise (MismatchError if mismatches else SetupError)("\n".join(map(str, loaded.errors.values())))
    for name, error in loaded.errors.items():
        _log.error("category cannot be served", category=name, reason=str(error))
        metrics.set_category_ready(name, False)
    for name, inspector in loaded.inspectors.items():
        metrics.set_category_ready(name, True)
        metrics.set_bank(name, inspector.bank, source.reference(name, inspector))
    return {name: loaded.inspectors[name] for name in names if name in loaded.inspectors}


def _keeper(broker: Broker, settings: config.Config, categories: Iterable[str], metrics: Metrics) -> QueueKeeper:
    metrics.set_queue_limit(topology.VERDICTS, settings.broker.verdicts_max_length)
    queues, shared = connections.plant(settings, categories), connections.plant(settings, [])
    if settings.banks.store is not None and settings.broker.make_queues:
        queues |= topology.bank_news()  # where it may not be made, workers do without it
    return QueueKeeper(broker, settings, queues, shared, QueueMetrics(metrics.registry))


def _declare_queues(broker: Broker, settings: config.Config, keeper: QueueKeeper, stop: threading.Event) -> None:
    """Create or check the queues. Wait while RabbitMQ is away, until `stop` is set."""
    while not stop.is_set():
        try:
            keeper.declare()
            retired_queues.move_all(broker, stop)
            return
        except TopologyMismatch:
            raise
        except BrokerError as error:
            _log.warning("waiting for RabbitMQ", reason=str(error), retry_in_s=_BROKER_RETRY_S)
        notify.extend_start(settings.worker.start_s)
        stop.wait(_BROKER_RETRY_S)


def _make_lanes(
    settings: config.Config,
    broker: Broker,
    inspectors: dict[str, Inspector],
    size: Sizes,
    verdicts: VerdictFactory,
    cache: VerdictCache,
    metrics: Metrics,
    expected: int,
) -> list[Lane]:
    prefetch = size.prefetch_of_each(len(inspectors) + expected)
    jobs, suspects = supply.of_jobs(broker, inspectors, prefetch), supply.of_suspects(broker, inspectors)
    heartbeats = Heartbeats(size.lanes + 1)
    lock = SharedExclusiveLock(size.concurrency, heartbeats.beat)
    connect = partial(connections.connect, name=f"{verdicts.worker} pictures")
    waiting = max(0, min(size.lanes * 2 // 3, prefetch - size.concurrency))  # so that jobs still arrive
    archive = pictures.of_worker(settings, connect, waiting, metrics.registry)
    shadows, stop = _shadows(settings, verdicts.worker, lock, metrics), threading.Event()

    def lane(kind: type[Lane], queue: Consumer) -> Lane:
        return kind(
            jobs=queue,
            inspectors=inspectors,
            lock=lock,
            broker=broker,
            verdicts=verdicts,
            cache=cache,
            metrics=metrics,
            heartbeats=heartbeats,
            stop=stop,
            max_attempts=settings.broker.max_attempts,
            pictures=settings.worker.pictures,
            archive=archive,
            shadows=shadows,
        )

    first = lane(Lane, jobs)
    return [*[first] * size.lanes, lane(SuspectLane, suspects)]


def _shadows(settings: config.Config, worker: str, lock: SharedExclusiveLock, metrics: Metrics) -> Shadows | None:
    """Return what shadow banks need, if there is a store of banks."""
    if settings.banks.store is None:
        return None
    broker = connections.connect(settings, f"{worker} shadows", quiet=True)
    return Shadows(broker, lock, ShadowMetrics(metrics.registry), now_ms)


def _run_lanes(
    lanes: list[Lane],
    broker: Broker,
    health: Health,
    stop: threading.Event,
    settings: config.Worker,
) -> tuple[WorkerFailedError | None, bool]:
    """Run the lanes until `stop` is set or one fails, then drain. Return the failure, and whether a lane is busy.

    If the device is lost, wait then until it is back, or `stop` is set, which is no failure.
    """
    losses: list[DeviceStuckError] = []
    queues = {lane.jobs for lane in lanes}
    health.is_consuming = lambda: broker.connected and all(queue.subscribed for queue in queues)
    garbage.settle()
    heap.trim()
    threads = _start(lanes, losses)
    failure = _watch(threads, lanes[0].heartbeats, health, stop)
    # A worker that lost its device can finish nothing: it gives everything back at once.
    given_back = drain(lanes, threads, broker, settings.drain_s if failure is None else 0.0)
    if lanes[0].archive is not None:
        lanes[0].archive.close()
    if lanes[0].shadows is not None:
        lanes[0].shadows.close()
    busy = sum(thread.is_alive() for thread in threads)
    _log.info("worker stopped", given_back=given_back, busy_lanes=busy)
    if losses:
        lost_device.wait(losses[0], lanes[0].metrics, health, stop, settings.start_s)
        failure = None if stop.is_set() else failure
    return failure, busy > 0


def _start(lanes: list[Lane], losses: list[DeviceStuckError]) -> list[threading.Thread]:
    cv2.setNumThreads(1)
    threads = [
        threading.Thread(target=_run_lane, args=(lane, losses), name=f"lane-{i}", daemon=True)
        for i, lane in enumerate(lanes)
    ]
    for thread in threads:
        thread.start()
    notify.send(notify.READY)
    return threads


def _watch(
    threads: list[threading.Thread], heartbeats: Heartbeats, health: Health, stop: threading.Event
) -> WorkerFailedError | None:
    """Report the progress of the lanes until `stop` is set. Return early, with an error, if one has ended."""
    failure = None
    while failure is None and not stop.wait(_WATCH_INTERVAL_S):
        if not all(thread.is_alive() for thread in threads):
            failure = WorkerFailedError("a lane has ended unexpectedly; see its error above")
        elif heartbeats.all_received():
            health.record_progress()
            notify.send(notify.ALIVE)
    notify.send(notify.STOPPING)
    return failure


def _leave(failure: WorkerFailedError | None) -> None:
    """End the process at once. The ordinary way would tear down native code that a lane is running."""
    if failure is not None:
        _log.error("worker failed", reason=str(failure))
    logs.flush()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it
            stream.flush()
    os._exit(0 if failure is None else _FAILED_EXIT_CODE)


def _run_lane(lane: Lane, losses: list[DeviceStuckError]) -> None:
    exact_search.set_threads(1)  # the lanes are the parallelism: each keeps one core busy
    try:
        lane.run()
    except DeviceStuckError as loss:
        losses.append(loss)
    except BrokerError:
        if not lane.stop.is_set():  # else the worker is ending, and has closed the connection that this lane waits for
            raise
