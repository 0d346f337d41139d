"""The thread of the archive that stores pictures: a slow store delays no verdict."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

import structlog

from patchline import config
from patchline.archive import opening
from patchline.archive.database import Database
from patchline.archive.folder_store import FolderStore
from patchline.archive.metrics import PictureMetrics
from patchline.archive.picture_table import PictureTable
from patchline.archive.picture_writer import PictureWriter
from patchline.archive.retention import Retention
from patchline.archive.store import StoreUnavailable
from patchline.broker.base import Broker
from patchline.protocol import topology
from patchline.protocol.errors import PatchlineError
from patchline.runtime.connections import now_ms

_log = structlog.get_logger(__name__)
_SLOW_S = 15.0
_JOIN_S = 10.0  # a store that does not answer is left alone: what was taken comes again


class PictureThread:
    """Stores the pictures of `patchline.pictures` until the end of the block.

    Of several archives one has the queue, and deletes old pictures. The others wait for its end.

    Args:
        settings: the configuration.
        database: of the archive.
        broker: the connection.
        metrics: what is counted.

    Raises:
        SetupError: the store cannot be used as it is configured.
    """

    def __init__(self, settings: config.Config, database: Database, broker: Broker, metrics: PictureMetrics) -> None:
        rules, self._broker = settings.archive.pictures, broker
        store, index = opening.open_store(settings), PictureTable(database)
        if isinstance(store, FolderStore):
            metrics.watch_space(store.free_bytes)
        elif not settings.archive.url:
            metrics.watch_space(FolderStore(settings.paths.archive).free_bytes)  # of the database
        with suppress(StoreUnavailable):  # it is tried again, and said
            opening.make_folder(settings)
        self._queue = broker.consume(topology.PICTURES, prefetch=2 * rules.batch, exclusive=True)
        retention = Retention(index, store, rules, metrics, now_ms)
        self._writer = PictureWriter(self._queue, index, store, retention, metrics, rules.batch, now_ms)
        self._stop = threading.Event()
        self._stepped_at: float | None = None
        self._failure: PatchlineError | None = None
        self._thread = threading.Thread(target=self._run, name="pictures", daemon=True)
        metrics.show(self.is_ready)

    def __enter__(self) -> PictureThread:
        self._thread.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(_JOIN_S)
        self._queue.cancel()

    @property
    def pending(self) -> int:
        """The number of pictures that were taken and are not stored."""
        return self._writer.pending

    def check(self) -> None:
        """Raise what has ended the thread, if another start would end the same.

        Raises:
            DamagedError: the database is damaged.
            MismatchError: a later build has changed it.
        """
        if self._failure is not None:
            raise self._failure

    def is_ready(self) -> bool:
        """Return True if pictures are taken and stored, or if another archive does so."""
        if not self._thread.is_alive() or not self._broker.connected:
            return False
        if self._queue.occupied:
            return True
        is_quick = self._stepped_at is not None and time.monotonic() - self._stepped_at < _SLOW_S
        return is_quick and self._writer.is_storing and self._queue.subscribed

    def _run(self) -> None:
        try:
            self._loop(self._writer.step)
        except PatchlineError as error:
            self._failure = error
        except Exception:  # noqa: BLE001 - verdicts are stored all the same, and the probe says it
            _log.exception("pictures are no longer stored")

    def _loop(self, step: Callable[[], float]) -> None:
        while not self._stop.is_set():
            pause_s = step()
            self._stepped_at = time.monotonic()
            if pause_s:
                self._stop.wait(pause_s)
