"""Stores what the queue of the ledger has, on a thread of its own: no verdict waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from patchline.archive import ledger_rows
from patchline.archive.base import Saved, Unreadable
from patchline.archive.ledger import Entry, Ledger
from patchline.archive.metrics import LedgerMetrics
from patchline.archive.writer import Writer
from patchline.broker.base import QueueConsumer
from patchline.protocol.errors import PatchlineError


class LedgerStore:
    """The ledger of an archive, as a writer uses it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def save(self, entries: list[Entry], unreadable: list[Unreadable], /) -> Saved:
        """See `ledger.Ledger.save_ledger`."""
        return self._ledger.save_ledger(entries, unreadable)

    def check(self) -> None:
        """See `base.Archive`."""
        self._ledger.check()


class LedgerLoop:
    """A context manager: it stores until `stop` is set.

    Args:
        queue: that of the ledger.
        ledger: where its messages go.
        metrics: what is counted.
        most: messages in a batch at most.
        wait_s: how long a batch waits for further messages.
        now_ms: the wall clock.
        stop: ends it.
    """

    def __init__(
        self,
        queue: QueueConsumer,
        ledger: Ledger,
        metrics: LedgerMetrics,
        most: int,
        wait_s: float,
        now_ms: Callable[[], int],
        stop: threading.Event,
    ) -> None:
        self._queue, self._stop = queue, stop
        self._writer = Writer(queue, ledger_rows.entry, LedgerStore(ledger), metrics, most, wait_s, now_ms)
        self._stepped_at = time.monotonic()
        self._failure: PatchlineError | None = None
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)

    def __enter__(self) -> LedgerLoop:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._queue.cancel()

    @property
    def pending(self) -> int:
        """The number of messages that were taken and are not stored."""
        return self._writer.pending

    @property
    def is_storing(self) -> bool:
        """True if messages are taken and stored."""
        return self._writer.is_storing and self._queue.subscribed and self._thread.is_alive()

    def has_stepped_within(self, seconds: float) -> bool:
        """Return True if it has made progress in this time."""
        return time.monotonic() - self._stepped_at < seconds

    def check(self) -> None:
        """Raise what has ended the thread.

        Raises:
            DamagedError: the database is damaged.
            RuntimeError: something that no one has thought of. Its stack trace is in the log.
        """
        if self._failure is not None:
            raise self._failure
        if not self._thread.is_alive() and not self._stop.is_set():
            raise RuntimeError("the thread of the ledger has ended")

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                pause_s = self._writer.step()
                self._stepped_at = time.monotonic()
                if pause_s:
                    self._stop.wait(pause_s)
        except PatchlineError as error:
            self._failure = error
