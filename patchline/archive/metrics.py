"""Metrics of the archive, and of its pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from patchline.archive.base import Record, Saved
from patchline.archive.ledger import Acted, Entry
from patchline.archive.pictures import PictureRow
from patchline.runtime.metrics import Counter, Gauge, Histogram, Registry
from patchline.runtime.queue_keeper import QueueMetrics

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counts what is stored, and shows whether anything is.

    Args:
        now_ms: the wall clock.
    """

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self.registry = Registry()
        self.queues = QueueMetrics(self.registry)
        self._now_ms = now_ms
        self._verdicts = self._counter("patchline_archive_verdicts", "Verdicts that were committed.", ["line"])
        self._rows = self._counter("patchline_archive_rows", "New rows, by table.", ["table"])
        for table in Saved.__dataclass_fields__:  # a series that starts at 1 would hide its first row from increase()
            self._rows.labels(table)
        text = "1 if verdicts are taken and stored, else 0."
        self._ready = Gauge("patchline_archive_ready", text, registry=self.registry)
        text = "Age of the last committed verdict, from its decision to its commit."
        self._behind = Gauge("patchline_archive_behind_seconds", text, registry=self.registry)
        text = "Time to store a batch."
        self._batch = Histogram("patchline_archive_batch_seconds", text, buckets=_SECONDS, registry=self.registry)

    def show(self, is_ready: Callable[[], bool]) -> None:
        """Show whether verdicts are taken and stored."""
        self._ready.set_function(lambda: float(is_ready()))

    def batch_stored(self, seconds: float) -> None:
        """Record how long a batch has taken."""
        self._batch.observe(seconds)

    def stored(self, records: Iterable[Record]) -> None:
        """Count verdicts that were committed, new or not."""
        for record in records:
            self._verdicts.labels(record.line).inc()
            self._behind.set(max(0, self._now_ms() - record.decided_at) / 1000)

    def saved(self, saved: Saved) -> None:
        """Count new rows."""
        for table in Saved.__dataclass_fields__:
            self._rows.labels(table).inc(getattr(saved, table))

    def ledger(self) -> LedgerMetrics:
        """Return what counts the messages of the ledger."""
        return LedgerMetrics(self, self.registry, self._now_ms)

    def _counter(self, name: str, text: str, labels: list[str]) -> Counter:
        return Counter(name, text, labels, registry=self.registry)


class LedgerMetrics:
    """Counts what the ledger gets.

    Args:
        archive: the metrics of the archive.
        registry: theirs.
        now_ms: the wall clock.
    """

    def __init__(self, archive: Metrics, registry: Registry, now_ms: Callable[[], int]) -> None:
        self._archive, self._now_ms = archive, now_ms
        text = "Messages of the ledger that were committed."
        self._messages = Counter("patchline_archive_ledger_messages", text, registry=registry)
        text = "Age of the last committed act, from the act to its commit."
        self._behind = Gauge("patchline_archive_ledger_behind_seconds", text, registry=registry)
        text = "Length at which RabbitMQ drops the oldest message of the queue of the ledger."
        self._limit = Gauge("patchline_archive_ledger_max_length", text, registry=registry)

    def show_limit(self, max_length: int) -> None:
        """Show how many messages the queue holds at most."""
        self._limit.set(max_length)

    def batch_stored(self, seconds: float) -> None:
        """Record how long a batch has taken."""
        self._archive.batch_stored(seconds)

    def stored(self, entries: Iterable[Entry]) -> None:
        """Count messages that were committed, new or not."""
        for entry in entries:
            self._messages.inc()
            if isinstance(entry, Acted):
                self._behind.set(max(0, self._now_ms() - entry.acted_at) / 1000)

    def saved(self, saved: Saved) -> None:
        """Count new rows."""
        self._archive.saved(saved)


class PictureMetrics:
    """Counts what becomes of pictures. All methods are thread-safe.

    Args:
        registry: of the archive.
    """

    def __init__(self, registry: Registry) -> None:
        text = "Pictures that the archive has taken, by what became of them: stored, known (it had them) or refused."
        self._taken = Counter("patchline_archive_pictures", text, ["state"], registry=registry)
        for state in ("stored", "known", "refused"):  # a series that starts at 1 would hide its first increase
            self._taken.labels(state)
        text = "Pictures that were deleted by the rules of the configuration."
        self._deleted = Counter("patchline_archive_pictures_deleted", text, ["decision"], registry=registry)
        text = "Bytes of the pictures in the archive, as of the last minute."
        self._bytes = Gauge("patchline_archive_picture_bytes", text, ["decision"], registry=registry)
        text = "When the oldest picture that may be deleted was stored, as of the last minute."
        name = "patchline_archive_oldest_picture_timestamp_seconds"
        self._oldest = Gauge(name, text, ["decision"], registry=registry)
        self._registry = registry
        text = "1 if pictures are taken and stored, or if another archive does so, else 0."
        self._ready = Gauge("patchline_archive_pictures_ready", text, registry=registry)
        text = "Time to store a batch of pictures."
        self._batch = Histogram("patchline_archive_picture_batch_seconds", text, buckets=_SECONDS, registry=registry)

    def show(self, is_ready: Callable[[], bool]) -> None:
        """Show whether pictures are taken and stored."""
        self._ready.set_function(lambda: float(is_ready()))

    def watch_space(self, free_bytes: Callable[[], float]) -> None:
        """Show how many bytes a disk has free. Archives that have pictures and database elsewhere do not show it."""
        text = "Free bytes of the disk that has the folder of pictures, or the database of SQLite."
        Gauge("patchline_archive_store_free_bytes", text, registry=self._registry).set_function(free_bytes)

    def batch_stored(self, seconds: float, stored: int, known: int) -> None:
        """Record a batch: how long it has taken, and how many pictures were new and were there."""
        self._batch.observe(seconds)
        self._taken.labels("stored").inc(stored)
        self._taken.labels("known").inc(known)

    def refused(self) -> None:
        """Count a message that is no picture."""
        self._taken.labels("refused").inc()

    def deleted(self, rows: Iterable[PictureRow]) -> None:
        """Count pictures that were deleted."""
        for row in rows:
            self._deleted.labels(row.decision).inc()

    def kept(self, sums: Mapping[str, int]) -> None:
        """Show the bytes of the pictures by decision."""
        for decision, number in sums.items():
            self._bytes.labels(decision).set(number)

    def oldest(self, rows: Mapping[str, Sequence[PictureRow]]) -> None:
        """Show the age of the oldest pictures: the first of each decision, if there is one."""
        self._oldest.clear()
        for decision, (row, *_) in ((decision, found) for decision, found in rows.items() if found):
            self._oldest.labels(decision).set(row.stored_at / 1000)
