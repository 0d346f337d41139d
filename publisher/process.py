"""The publisher's process: sends captures as jobs and spools them while the broker is not available."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import structlog

from patchline import config
from patchline.broker.base import Broker, BrokerError, TopologyMismatch
from patchline.protocol.messages import Job
from patchline.publisher.metrics import SEVERAL, Metrics
from patchline.publisher.publisher import Publisher, State
from patchline.publisher.source import Capture
from patchline.publisher.spool import Spool
from patchline.runtime import connections
from patchline.runtime.metrics import Registry

_log = structlog.get_logger(__name__)
_DECLARE_RETRY_S = 2.0


def run(
    settings: config.Config,
    line: str,
    category: str | None,
    captures: Iterable[Capture],
    deadline_ms: int,
    metrics_port: int | None,
    on_state: Callable[[Job, State], None],
    stop: threading.Event,
    registry: Registry | None = None,
) -> None:
    """Publish captures until they end or `stop` is set, then wait until the spool is empty or `stop` is set.

    The next start sends what is left in the spool.

    Args:
        settings: the configuration.
        line: the line of the camera.
        category: the category of the parts; None if each capture has its own.
        captures: the source of the images.
        deadline_ms: time allowed for a verdict, from the moment the publisher takes a capture without a deadline.
        metrics_port: port on `worker.metrics_host` that serves the metrics; None serves none.
        on_state: called with every change of a job's state, never by two threads at the same time.
        stop: ends the publisher when set.
        registry: gets the metrics of the publisher, beside those of the source.

    Raises:
        SetupError: the spool cannot be used.
        TopologyMismatch: a queue exists with different arguments.
    """
    limits = settings.publisher
    path = settings.paths.spool / (f"{line}.{category}.sqlite" if category else f"{line}.sqlite")
    with (
        closing(Spool(path, limits.spool_max_bytes, limits.spool_max_age_s, limits.spool_min_free_bytes)) as spool,
        connections.connect(settings, f"publisher {line}", confirm_timeout_s=limits.confirm_timeout_s) as broker,
    ):
        metrics = Metrics(line, category or SEVERAL, spool, connections.now_ms, registry)
        if metrics_port is not None:
            metrics.serve(settings.worker.metrics_host, metrics_port)
        report = _serialized(metrics, on_state)
        publisher = Publisher(broker, line, category, spool, connections.now_ms, report, stop)
        if not _try_to_declare(broker, settings):
            threading.Thread(target=_keep_declaring, args=(broker, settings, stop), daemon=True).start()
        with _replay_in_background(publisher, stop):
            for capture in captures:
                if publisher.accept(capture, capture.deadline or connections.now_ms() + deadline_ms) is None:
                    break
            while spool.depth() and not stop.wait(0.1):
                pass
        _log.info("publisher stopped", line=line, category=category, spooled=spool.depth())


def _serialized(metrics: Metrics, on_state: Callable[[Job, State], None]) -> Callable[[Job, State], None]:
    """Count each state and call `on_state` under a lock: the captures and the replay run on two threads."""
    lock = threading.Lock()

    def report(job: Job, state: State) -> None:
        metrics.count(job.category, state)
        with lock:
            on_state(job, state)

    return report


@contextmanager
def _replay_in_background(publisher: Publisher, stop: threading.Event) -> Iterator[None]:
    """Replay the spool on a second thread until the block ends.

    An error of that thread sets `stop` and is raised when the block ends. Without a replay the spool would only fill.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="replay") as executor:
        replay = executor.submit(publisher.replay_until_stopped)
        replay.add_done_callback(lambda _: stop.set())
        try:
            yield
        finally:
            stop.set()
    replay.result()


def _try_to_declare(broker: Broker, settings: config.Config) -> bool:
    try:
        connections.declare(broker, settings, connections.plant(settings))
    except TopologyMismatch:
        raise
    except BrokerError as error:
        _log.warning("queues not declared, retrying", reason=str(error))
        return False
    return True


def _keep_declaring(broker: Broker, settings: config.Config, stop: threading.Event) -> None:
    """Retry in the background, so that a camera can start without the broker."""
    while not stop.wait(_DECLARE_RETRY_S) and not _try_to_declare(broker, settings):
        pass
