"""Reads every image that appears in a folder, once it is complete: joins events, listings, states and memory.

New images are found by events and by listing: at the start, when a subfolder appears, after events were lost, and at
intervals. So nothing depends on an event.
"""

from __future__ import annotations

import functools
import heapq
import math
import os
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from patchline import config
from patchline.publisher import folder_listing, source, whole_image
from patchline.publisher.category_pattern import CategoryPattern
from patchline.publisher.folder_events import Event, FolderEvents, Kind, file_system
from patchline.publisher.folder_listing import Listing
from patchline.publisher.folder_reports import FolderReports
from patchline.publisher.source import Capture
from patchline.publisher.taken_images import Content, Known, TakenImages
from patchline.publisher.watched_folder import Signature, WatchedFolder

_LOOK_EVERY_S = 0.25  # while images are handed on
_BATCH = 512  # images that are put in order at a time
_GROUP, _GROUP_BYTES = 16, 8_000_000  # images that are read at a time: their memory is written once
STOP_POLL_S = 0.2
_LISTING_SHARE = 4  # the pause after a listing is at least this many times its duration


@dataclass(eq=False)
class FolderWatch:
    """Watches one folder.

    Attributes:
        root: the folder, with its subfolders.
        limits: rests and intervals.
        deadline_ms: time allowed for a verdict, from the capture.
        categories: tells the category of each image; None leaves it to the publisher.
        events: of the folder.
        memory: the images that were taken.
        reports: log and metrics.
        stop: ends `captures` when set.
    """

    root: Path
    limits: config.Publisher
    deadline_ms: int
    categories: CategoryPattern | None
    events: FolderEvents
    memory: TakenImages
    reports: FolderReports
    stop: threading.Event

    def __post_init__(self) -> None:
        rest_s, incomplete_rest_s = self.limits.rest_ms / 1000, self.limits.incomplete_rest_ms / 1000
        open_rest_s = max(rest_s, min(incomplete_rest_s, self.deadline_ms / 2000))
        self.images = WatchedFolder(rest_s, incomplete_rest_s, open_rest_s, self.memory.signatures())
        self._next_listing = 0.0
        self._is_reported = False

    def captures(self) -> Iterator[Capture]:
        """Yield every complete image until the stop event is set. What was accepted is not read again."""
        while not self.stop.is_set():
            yield from self.turn(STOP_POLL_S)

    def turn(self, max_pause_s: float) -> Iterator[Capture]:
        """Wait for events or the next due time, no longer than `max_pause_s`. Yield images that are complete."""
        self.reports.looking()
        self._look(max_pause_s)
        next_look = time.monotonic() + _LOOK_EVERY_S
        for group in _groups(self._most_urgent()):
            captures = [self._take(path, signature) for path, signature in group]
            self.memory.await_begun()
            for capture in captures:
                if capture is not None:
                    yield capture
                    self.reports.looking()
            if time.monotonic() >= next_look:
                break
        self.memory.flush_later()
        self.reports.vanished(self.images.take_vanished(), time.monotonic())
        self.reports.counts(self.images.counts(), self.memory.unwritten_s())

    @property
    def is_idle(self) -> bool:
        """True if every image that is known is taken."""
        return self.images.next_due() is None and not self.images.has_complete

    def close(self) -> None:
        """Write what was accepted, and stop watching."""
        self.events.close()
        self.memory.close()

    def _look(self, max_pause_s: float) -> None:
        """Wait for events or the next due time, and look at what may have changed."""
        if time.monotonic() >= self._next_listing:
            self._list_all()
        for event in self.events.read(min(self._pause_s(), max_pause_s)):
            self._handle(event)
        for path in self.images.due(time.monotonic()):
            self._observe(path)

    def _pause_s(self) -> float:
        if self.images.has_complete:
            return 0.0
        due = min(self._next_listing, self.images.next_due() or self._next_listing)
        return max(0.0, due - time.monotonic())

    def _handle(self, event: Event) -> None:
        if event.kind is Kind.OVERFLOW:
            self.reports.overflow()
            self._next_listing = 0.0
        elif event.kind is Kind.FOLDER:
            self._list_subfolder(event.path)
        else:
            self.images.arrive(
                event.path,
                time.monotonic(),
                closed=event.kind is Kind.CLOSED,
                written=event.kind is Kind.WRITTEN,
                moved=event.kind is Kind.MOVED,
            )

    def _list_all(self) -> None:
        started = time.monotonic()
        try:
            listing = folder_listing.list_folder(self.root, "", self.events.watch)
        except OSError as error:
            self.reports.folder_unreadable(str(error.strerror))
        else:
            self._note_listing(listing)
        ended = time.monotonic()
        interval_s = (self.limits.list_ms if self.events.complete else self.limits.poll_ms) / 1000
        self._next_listing = ended + max(interval_s, _LISTING_SHARE * (ended - started))
        if not self._is_reported:
            self.reports.watching(file_system(self.root), self.events.complete, interval_s)
            self._is_reported = True

    def _note_listing(self, listing: Listing) -> None:
        self.reports.listed(listing.images, listing.unreadable)
        self.reports.skipped(listing.skipped)
        self.reports.links(listing.links)
        self.images.list_all(listing.images, time.monotonic())
        if not listing.unreadable:
            self.memory.remove(self.images.forget_missing(listing.images))
            if listing.images:  # or another folder may be mounted there
                self.memory.remove(self.memory.gone(listing.images))

    def _list_subfolder(self, folder: str) -> None:
        """Look at the images of a folder that has appeared. Its errors are left to the next listing of all."""
        try:
            listing = folder_listing.list_folder(self.root, folder, self.events.watch)
        except OSError:
            return
        for path, signature in listing.images.items():
            self.images.observe(path, signature, time.monotonic())

    def _observe(self, path: str) -> None:
        try:
            status = (self.root / path).stat()
        except (FileNotFoundError, NotADirectoryError):
            self.images.vanish(path)
        except OSError as error:
            self._retry(path, error)
        else:
            if stat.S_ISREG(status.st_mode):
                self.images.observe(path, folder_listing.signature_of(status), time.monotonic())
            else:
                self.images.vanish(path)

    def _most_urgent(self) -> list[tuple[str, Signature]]:
        """Return complete images: those that are in time first, and of these the oldest first."""
        now_ms = time.time_ns() // 1_000_000

        def urgency(image: tuple[str, Signature]) -> tuple[bool, int, str]:
            path, signature = image
            return self._deadline(signature) < now_ms, signature.ctime_ns, path

        return heapq.nsmallest(_BATCH, self.images.complete().items(), urgency)

    def _take(self, path: str, signature: Signature) -> Capture | None:
        """Read a complete image. Return None if it is not one yet, or no new one."""
        if self.categories is not None and self.categories.category(path) is None:
            self.reports.refused(path)
            self.images.take(path, signature)  # until the next start, which may know the category
            return None
        try:
            image, status = source.read_file(self.root / path)
        except FileNotFoundError:
            self.images.vanish(path)
            return None
        except OSError as error:
            self._retry(path, error)
            return None
        self.reports.readable(path)
        if folder_listing.signature_of(status) != signature:
            self.images.observe(path, folder_listing.signature_of(status), time.monotonic())
        elif not whole_image.is_whole(image) and not self.images.has_rested_as_incomplete(path):
            self.images.rest_as_incomplete(path, time.monotonic(), self._limit_of_rest_s(signature))
        else:
            return self._hand_on(path, signature, image, status)
        return None

    def _hand_on(self, path: str, signature: Signature, image: bytes, status: os.stat_result) -> Capture | None:
        """Return the capture of an image. Return None if it was handed on before: only its signature is new."""
        is_new = self.images.is_new_content(path)
        self.images.take(path, signature)
        content = Content(image)
        known = self.memory.knows(path, signature, content)
        begun_at = self.memory.begun_before(path, signature, content)
        if begun_at is not None and not is_new:  # the same job again
            deadline = begun_at + self.deadline_ms
        elif begun_at is None and known is Known.NEW:
            deadline = self._deadline(signature)
        elif is_new:  # a time that was set, and is that of another part with the same picture, tells nothing of it
            deadline = signature.ctime_ns // 1_000_000 + self.deadline_ms
        else:
            if known is Known.TAKEN:
                self.memory.add(path, signature, content)
            return None
        self.memory.begin(path, signature, content, deadline - self.deadline_ms)
        late_ms = time.time_ns() // 1_000_000 - deadline
        if late_ms > 0:
            self.reports.late(path, late_ms / 1000, time.monotonic())
        return replace(
            source.capture_of(self.root / path, status, image),
            captured_at=deadline - self.deadline_ms,
            category=self.categories.category(path) if self.categories else None,
            deadline=deadline,
            sha256=content.sha256,
            on_accepted=functools.partial(self.memory.add, path, signature, content),
        )

    def _deadline(self, signature: Signature) -> int:
        """Return the deadline. If the camera's clock is ahead, it counts from the time when the file came.

        So does the time of capture: the patience of a gate is the time between them.
        """
        captured_at = source.captured_at(signature.mtime_ns, signature.ctime_ns)
        return min(captured_at, signature.ctime_ns // 1_000_000) + self.deadline_ms

    def _limit_of_rest_s(self, signature: Signature) -> float:
        """Return how long an image may rest that ends too early: a worker must have time to say so."""
        left_ms = self._deadline(signature) - time.time_ns() // 1_000_000
        return left_ms / 2000 if left_ms > 0 else math.inf

    def _retry(self, path: str, error: OSError) -> None:
        self.reports.unreadable(path, str(error.strerror))
        self.images.retry(path, time.monotonic() + self.limits.poll_ms / 1000)


def _groups(images: list[tuple[str, Signature]]) -> Iterator[list[tuple[str, Signature]]]:
    """Split images into groups that are read at a time."""
    group: list[tuple[str, Signature]] = []
    size = 0
    for path, signature in images:
        if group and (len(group) == _GROUP or size + signature.size > _GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append((path, signature))
        size += signature.size
    if group:
        yield group
