"""The archive's process: its wiring and its life."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing

import structlog

from patchline import config
from patchline.archive import opening
from patchline.archive.base import Record, Unavailable
from patchline.archive.database import Database
from patchline.archive.ledger_loop import LedgerLoop
from patchline.archive.metrics import Metrics, PictureMetrics
from patchline.archive.picture_thread import PictureThread
from patchline.archive.writer import Writer, verdict
from patchline.broker.base import Broker, BrokerError, QueueConsumer, TopologyMismatch
from patchline.protocol import topology
from patchline.protocol.errors import SetupError
from patchline.runtime import connections, health, locks, notify
from patchline.runtime.connections import now_ms
from patchline.runtime.queue_keeper import QueueKeeper
from patchline.runtime.status import BLIND, SERVING, Identity, StatusSender

_log = structlog.get_logger(__name__)
_RETRY_S = 2.0
_SLOW_S, _STUCK_S = 15.0, 60.0  # not ready, not alive; the second is above the timeouts of the database
_START_S = 60.0


def migrate(settings: config.Config) -> None:
    """Make the tables of the archive, or bring them up to date. See `Database.prepare` for the errors."""
    with closing(opening.open_archive(settings)) as archive:
        try:
            archive.prepare()
        except Unavailable as error:
            raise SetupError(f"the database of the archive cannot be used ({error})") from error


def run(settings: config.Config, stop: threading.Event, metrics_port: int | None = None) -> None:
    """Store what comes from `patchline.verdicts`, `patchline.ledger` and `patchline.pictures` until `stop` is set.

    Args:
        settings: the configuration.
        stop: ends the archive. It stores what it has taken; the rest stays in the queue.
        metrics_port: port on `worker.metrics_host` for metrics and probes; None: none.

    Raises:
        SetupError: the database or the store cannot be used, or another archive has their folder.
        DamagedError: the file is damaged.
        TopologyMismatch: a queue is missing or has other arguments.
    """
    measured = Metrics(now_ms)
    life = _Life()
    measured.show(life.stores_verdicts)
    with ExitStack() as stack:
        archive = stack.enter_context(closing(opening.open_archive(settings)))
        health.try_to_serve(settings.worker.metrics_host, metrics_port, measured.registry, life, "archiving")
        if not settings.archive.url:
            _claim(settings, stack, stop)
        _prepare(archive, stop)
        broker = stack.enter_context(connections.connect(settings, "archive"))
        shared = connections.plant(settings, []) | connections.ledger(settings)
        keeper = QueueKeeper(broker, settings, shared, shared, measured.queues)
        _declare(keeper, stop)
        if stop.is_set():
            return
        rules = settings.archive
        verdicts = broker.consume(topology.VERDICTS, prefetch=2 * rules.batch)
        batch_s = rules.batch_ms / 1000
        writer = Writer(verdicts, verdict, archive, measured, rules.batch, batch_s, now_ms)
        queue, counters = broker.consume(topology.LEDGER, prefetch=2 * rules.batch), measured.ledger()
        counters.show_limit(settings.broker.ledger_max_length)
        ledger = stack.enter_context(LedgerLoop(queue, archive, counters, rules.batch, batch_s, now_ms, stop))
        pictures = PictureThread(settings, archive, broker, PictureMetrics(measured.registry))
        life.watch(writer, broker, verdicts, ledger, pictures)
        stack.enter_context(pictures)
        stack.enter_context(keeper)
        status_broker = connections.connect(settings, "archive status", quiet=True)
        identity, makes = Identity("archive", socket.gethostname()), settings.broker.make_queues
        stack.enter_context(StatusSender(status_broker, identity, life.report, now_ms, makes))
        _log.info("archive started", database="PostgreSQL" if rules.url else str(opening.target(settings)))
        _run(writer, (ledger, pictures), life, stop)
        verdicts.cancel()
    _log.info("archive stopped", given_back=writer.pending + ledger.pending)


def _claim(settings: config.Config, stack: ExitStack, stop: threading.Event) -> None:
    """Keep other archives out of the folder. Wait while its disk is full or takes nothing, until `stop` is set."""
    file = settings.paths.archive / "archive.lock"

    def claim() -> None:
        try:
            lock = locks.claim(file, f"{settings.paths.archive}: another archive uses this folder")
        except PermissionError:
            raise
        except OSError as error:
            raise Unavailable(f"{file}: {error.strerror}") from error
        stack.callback(os.close, lock)

    _until_stopped(claim, Unavailable, "waiting for the folder of the archive", stop)


def _prepare(archive: Database, stop: threading.Event) -> None:
    """Make the tables. Wait while the database is away, until `stop` is set."""
    _until_stopped(archive.prepare, Unavailable, "waiting for the database of the archive", stop)


def _declare(keeper: QueueKeeper, stop: threading.Event) -> None:
    """Create or check the queues. Wait while RabbitMQ is away, until `stop` is set."""
    _until_stopped(keeper.declare, BrokerError, "waiting for RabbitMQ", stop)


def _until_stopped(attempt: Callable[[], None], retried: type[Exception], event: str, stop: threading.Event) -> None:
    """Try again and again. Each reason is said once, since this may last for days."""
    said = ""
    while not stop.is_set():
        try:
            attempt()
            return
        except TopologyMismatch:
            raise
        except retried as error:
            if str(error) != said:
                _log.warning(event, reason=str(error), retry_in_s=_RETRY_S)
            said = str(error)
        notify.extend_start(_START_S)
        stop.wait(_RETRY_S)


def _run(writer: Writer[Record], threads: tuple[LedgerLoop, PictureThread], life: _Life, stop: threading.Event) -> None:
    notify.send(notify.READY)
    while not stop.is_set():
        for thread in threads:
            thread.check()
        pause_s = writer.step()
        life.record_step()
        if life.is_alive():
            notify.send(notify.ALIVE)
        if pause_s:
            stop.wait(pause_s)
    notify.send(notify.STOPPING)


class _Life:
    """What an archive tells about itself: probes and status."""

    def __init__(self) -> None:
        self._stepped_at: float | None = None
        self._writer: Writer[Record] | None = None
        self._ledger: LedgerLoop | None = None
        self._pictures: PictureThread | None = None
        self._is_consuming: Callable[[], bool] = lambda: False

    def watch(
        self,
        writer: Writer[Record],
        broker: Broker,
        verdicts: QueueConsumer,
        ledger: LedgerLoop,
        pictures: PictureThread,
    ) -> None:
        """Ask these from now on."""
        self._writer, self._ledger, self._pictures = writer, ledger, pictures
        self._is_consuming = lambda: broker.connected and verdicts.subscribed and ledger.is_storing

    def record_step(self) -> None:
        """Record that the archive makes progress."""
        self._stepped_at = time.monotonic()

    def is_alive(self) -> bool:
        """Return False if the archive is stuck, such as in a database that has frozen."""
        return self._has_stepped_within(_STUCK_S)

    def is_ready(self) -> bool:
        """Return True if verdicts, what the ledger has, and pictures are taken and stored."""
        return self.stores_verdicts() and self._pictures is not None and self._pictures.is_ready()

    def stores_verdicts(self) -> bool:
        """Return True if verdicts, and what the ledger has, are taken and stored."""
        writer = self._writer
        return writer is not None and writer.is_storing and self._has_stepped_within(_SLOW_S) and self._is_consuming()

    def _has_stepped_within(self, seconds: float) -> bool:
        stepped = self._stepped_at is None or time.monotonic() - self._stepped_at < seconds
        return stepped and (self._ledger is None or self._ledger.has_stepped_within(seconds))

    def report(self) -> tuple[str, dict[str, int]]:
        """Return the state of this archive, and what it holds."""
        pending = sum(0 if part is None else part.pending for part in (self._writer, self._ledger))
        pictures = 0 if self._pictures is None else self._pictures.pending
        return SERVING if self.stores_verdicts() else BLIND, {"pending": pending, "pending_pictures": pictures}
