"""The publisher's process: captures in, confirmed jobs out, the spool between them when the broker is away."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import structlog

from patchline import config
from patchline.broker.base import Broker, BrokerError, TopologyMismatch
from patchline.protocol.messages import Job
from patchline.publisher.metrics import Metrics
from patchline.publisher.publisher import Publisher, State
from patchline.publisher.source import Capture
from patchline.publisher.spool import Spool
from patchline.runtime import connections

_log = structlog.get_logger(__name__)
_AGAIN_S = 2.0


def run(
    settings: config.Config,
    line: str,
    category: str,
    captures: Iterable[Capture],
    deadline_ms: int,
    metrics_port: int | None,
    tell: Callable[[Job, State], None],
    stop: threading.Event,
) -> None:
    """Publish captures until they end or `stop` is set; then wait for the spool, which the next start goes on with.

    Args:
        settings: the configuration.
        line: of the camera.
        category: of the parts.
        captures: where images come from.
        deadline_ms: time for a verdict, from the capture being taken on.
        metrics_port: on `worker.metrics_host`; none where it is None.
        tell: hears of every change of a job's state.
        stop: asks for the end.

    Raises:
        SetupError: the spool cannot be used.
        TopologyMismatch: the queues are there with other arguments.
    """
    limits = settings.publisher
    path = settings.paths.spool / f"{line}.{category}.sqlite"
    with (
        closing(Spool(path, limits.spool_max_bytes, limits.spool_max_age_s, limits.spool_min_free_bytes)) as spool,
        connections.connect(settings, f"publisher {line}", confirm_timeout_s=limits.confirm_timeout_s) as broker,
    ):
        metrics = Metrics(line, category, spool, connections.now_ms)
        if metrics_port is not None:
            metrics.serve(settings.worker.metrics_host, metrics_port)
        told = _one_at_a_time(metrics, tell)
        publisher = Publisher(broker, line, category, spool, connections.now_ms, told, stop)
        if not _declared(broker, settings):
            threading.Thread(target=_declare_later, args=(broker, settings, stop), daemon=True).start()
        with _replaying(publisher, stop):
            for capture in captures:
                if publisher.accept(capture, connections.now_ms() + deadline_ms) is None:
                    break
            while spool.depth() and not stop.wait(0.1):
                pass
        _log.info("publisher ends", line=line, category=category, spooled=spool.depth())


def _one_at_a_time(metrics: Metrics, tell: Callable[[Job, State], None]) -> Callable[[Job, State], None]:
    """Two threads tell: that of the captures, and the replay of the spool."""
    turn = threading.Lock()

    def told(job: Job, state: State) -> None:
        metrics.became(state)
        with turn:
            tell(job, state)

    return told


@contextmanager
def _replaying(publisher: Publisher, stop: threading.Event) -> Iterator[None]:
    """Beside the captures, until these end. If it fails all ends with its error: the spool would only fill."""
    with ThreadPoolExecutor(1, thread_name_prefix="replay") as beside:
        replay = beside.submit(publisher.keep_replaying)
        replay.add_done_callback(lambda _: stop.set())
        try:
            yield
        finally:
            stop.set()
    replay.result()


def _declared(broker: Broker, settings: config.Config) -> bool:
    try:
        connections.declare(broker, settings, connections.plant(settings))
    except TopologyMismatch:
        raise
    except BrokerError as error:
        _log.warning("queues not declared yet", why=str(error))
        return False
    return True


def _declare_later(broker: Broker, settings: config.Config, stop: threading.Event) -> None:
    """A camera starts whether the broker is there or not."""
    while not stop.wait(_AGAIN_S) and not _declared(broker, settings):
        pass
