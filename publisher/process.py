"""The publisher's process: sends captures as jobs and spools them while the broker is not available."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

import structlog

from patchline import config
from patchline.broker.base import Broker, BrokerError, TopologyMismatch
from patchline.protocol.messages import Job
from patchline.protocol.topology import NOTHING, Topology
from patchline.publisher.job_state import JobState, OnState
from patchline.publisher.metrics import SEVERAL, Metrics
from patchline.publisher.pipelines import Pipelines, in_background
from patchline.publisher.publisher import Publisher
from patchline.publisher.replay import Replay
from patchline.publisher.source import Capture
from patchline.publisher.spool import Spool
from patchline.publisher.window import Limits
from patchline.runtime import connections, damage
from patchline.runtime.health import Health, try_to_serve
from patchline.runtime.metrics import Registry
from patchline.runtime.queue_keeper import QueueKeeper, QueueMetrics
from patchline.runtime.status import BLIND, SERVING, Identity, StatusSender

_log = structlog.get_logger(__name__)
_TICK_S = 0.1


def run(
    settings: config.Config,
    line: str,
    category: str | None,
    captures: Iterable[Capture],
    deadline_ms: int,
    metrics_port: int | None,
    on_state: OnState,
    stop: threading.Event,
    registry: Registry | None = None,
    is_looking: Callable[[], bool] = lambda: True,
    hand_in: bool = False,
) -> None:
    """Publish captures until they end or `stop` is set, then wait until the spool is empty or `stop` is set.

    The next start sends what is left in the spool.

    Args:
        settings: the configuration.
        line: the line of the camera.
        category: the category of the parts; None if each capture has its own.
        captures: the source of the images. A capture is safe when its `on_accepted` is called, not when the next one is
            taken: several are on their way at the same time.
        deadline_ms: time allowed for a verdict, from the moment the publisher takes a capture without a deadline.
        metrics_port: port on `worker.metrics_host` that serves the metrics; None serves none.
        on_state: called with every change of a job's state, never by two threads at the same time.
        stop: ends the publisher when set.
        registry: gets the metrics of the publisher, beside those of the source.
        is_looking: tells whether the source makes progress; the publisher is not ready while it does not.
        hand_in: the captures are what people hand to the line in the console, which has to know that somebody does.

    Raises:
        SetupError: the spool cannot be used.
        TopologyMismatch: a queue exists with different arguments.
    """
    with running(
        settings, line, category, metrics_port, on_state, stop, registry, is_looking=is_looking, hand_in=hand_in
    ) as publishers:
        for capture in captures:
            if publishers.accept(capture, capture.deadline or connections.now_ms() + deadline_ms) is None:
                break
        publishers.flush()
        while publishers.depth() and not stop.wait(_TICK_S):
            pass


@contextmanager
def running(
    settings: config.Config,
    line: str,
    category: str | None,
    metrics_port: int | None,
    on_state: OnState,
    stop: threading.Event,
    registry: Registry | None = None,
    source: Topology = NOTHING,
    is_looking: Callable[[], bool] = lambda: True,
    hand_in: bool = False,
) -> Iterator[Pipelines]:
    """Run the publishers of a line and their connection until the block ends. See `run` for arguments and errors.

    `source` is what the source of the images needs on RabbitMQ; it is kept with the queues of the publishers. At the
    end every image in the window is confirmed, spooled or reported as not accepted.
    """
    limits = settings.publisher
    with (
        connections.connect(settings, f"publisher {line}", confirm_timeout_s=limits.confirm_timeout_s) as broker,
        ExitStack() as stack,
    ):
        metrics = Metrics(line, category or SEVERAL, registry)
        start = partial(_publisher, settings, line, broker, _serialized(metrics, on_state), stop)
        publishers = stack.enter_context(Pipelines(category, start))
        metrics.show(publishers)
        damage.show(metrics.registry, line, settings.paths.spool)
        for name in [category] if category else _left_behind(settings, line):
            publishers.open(name)
        if metrics_port is not None:
            _serve_metrics(metrics, settings.worker.metrics_host, metrics_port, broker, is_looking)
        identity = Identity("publisher", f"{socket.gethostname()}:{category or SEVERAL}:{os.getpid()}", line, hand_in)
        keeper = _keeper(broker, settings, category, metrics, source)
        _try_to_declare(keeper)
        stack.enter_context(keeper)
        status_broker = connections.connect(settings, f"publisher {line} status", quiet=True)
        report, makes = partial(_report, broker, publishers, is_looking), settings.broker.make_queues
        stack.enter_context(StatusSender(status_broker, identity, report, connections.now_ms, makes))
        yield publishers


@contextmanager
def _publisher(
    settings: config.Config,
    line: str,
    broker: Broker,
    report: OnState,
    stop: threading.Event,
    category: str | None,
) -> Iterator[Publisher]:
    """Run the publisher of one category with its spool until the block ends."""
    limits = settings.publisher
    path = _spool_path(settings, line, category)
    with closing(Spool(path, limits.spool_max_bytes, limits.spool_max_age_s, limits.spool_min_free_bytes)) as spool:
        replay = Replay(broker, spool, report, stop, connections.now_ms, limits.late_per_s)
        bounds = Limits(limits.window, limits.window_bytes, limits.confirm_timeout_s, settings.images.max_bytes)
        publisher = Publisher(broker, line, category, spool, replay, report, stop, connections.now_ms, bounds)
        with in_background(publisher, stop):
            yield publisher
        _log.info("publisher stopped", line=line, category=category, spooled=spool.depth())


def _spool_path(settings: config.Config, line: str, category: str | None) -> Path:
    return settings.paths.spool / (f"{line}.{category}.sqlite" if category else f"{line}.sqlite")


def _left_behind(settings: config.Config, line: str) -> list[str | None]:
    """Return the categories whose spools exist. An earlier build had one spool for several categories: None."""
    return [name for name in (None, *settings.categories) if _spool_path(settings, line, name).exists()]


def _report(broker: Broker, publishers: Pipelines, is_looking: Callable[[], bool]) -> tuple[str, dict[str, int]]:
    holds = {"window": publishers.in_window, "spooled": publishers.depth()}
    return SERVING if broker.connected and is_looking() else BLIND, holds


def _serve_metrics(metrics: Metrics, host: str, port: int, broker: Broker, is_looking: Callable[[], bool]) -> None:
    """Serve the metrics, if the port is free. Publishing never depends on them."""
    health = Health(stuck_s=float("inf"))
    health.record_progress()
    health.is_consuming = lambda: broker.connected and is_looking()
    try_to_serve(host, port, metrics.registry, health, "publishing")


def _serialized(metrics: Metrics, on_state: OnState) -> OnState:
    """Count each state and call `on_state` under a lock: the window and the replay run on two threads."""
    lock = threading.Lock()

    def report(job: Job, state: JobState, reason: str | None) -> None:
        metrics.count(job.category, state)
        if state is JobState.REFUSED:
            _log.error("image refused", job_id=job.job_id, part_id=job.part_id, reason=reason)
        with lock:
            on_state(job, state, reason)

    return report


def _keeper(
    broker: Broker, settings: config.Config, category: str | None, metrics: Metrics, source: Topology
) -> QueueKeeper:
    queues = connections.plant(settings, None if category is None else [category]) | source
    watched = connections.plant(settings, []) | source
    return QueueKeeper(broker, settings, queues, watched, QueueMetrics(metrics.registry))


def _try_to_declare(keeper: QueueKeeper) -> None:
    """Declare the queues. If RabbitMQ is away, the keeper does it later, so that a camera can start without it."""
    try:
        keeper.declare()
    except TopologyMismatch:
        raise
    except BrokerError as error:
        _log.warning("queues not declared, retrying", reason=str(error))
