"""What a watched folder reports to its log and metrics. A trouble is logged once, and once more when it is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from patchline.publisher.folder_metrics import FolderMetrics
from patchline.publisher.watched_folder import State

_log = structlog.get_logger(__name__)
_LATE_LOG_S = 5.0
_BESIDE_IMAGES = {".xml", ".json", ".txt", ".csv", ".log", ".ini", ".yaml", ".yml", ".md5", ".sha256"}
_MAX_LINKS = 20
_NAMES = 3
_MAX_SUFFIXES = 20  # some cameras put a number or a time there


class FolderReports:
    """Reports about one folder."""

    def __init__(self, folder: Path, metrics: FolderMetrics) -> None:
        self.former = False  # the watched link leads to another folder: only the log is about this one
        self._folder = str(folder)
        self._metrics = metrics
        self._troubles: dict[str, str] = {}  # reasons by relative path; the folder itself is empty
        self._late: list[float] = []  # since the last log line, in seconds
        self._next_late_log = 0.0
        self._skipped: set[str] = set()  # suffixes
        self._links: set[str] = set()
        self._vanished: list[str] = []  # since the last log line
        self._next_vanished_log = 0.0

    def watching(self, file_system: str, complete_events: bool, interval_s: float) -> None:
        """Say how images are found."""
        way = "events, and listing" if complete_events else "listing, since events may be missing"
        _log.info(
            "watching folder", folder=self._folder, file_system=file_system, found_by=way, listing_every_s=interval_s
        )

    def looking(self) -> None:
        """Note that the thread that looks for images goes on."""
        self._metrics.record_look()

    def counts(self, counts: Mapping[State, int], unwritten_s: float) -> None:
        """Set the number of images in each state, and for how long taken ones have waited to be remembered."""
        if not self.former:
            self._metrics.set_counts(counts)
            self._metrics.unremembered.set(unwritten_s)

    def overflow(self) -> None:
        """Say that events were lost."""
        _log.warning("events of the watched folder were lost, listing it", folder=self._folder)

    def folder_unreadable(self, reason: str) -> None:
        """Say that the folder cannot be read."""
        if self.former:  # it may be deleted
            return
        self._metrics.readable.set(0)
        if self._troubles.get("") != reason:
            _log.error("watched folder cannot be read, retrying", folder=self._folder, reason=reason)
        self._troubles[""] = reason

    def broken_link(self, target: str) -> None:
        """Say that the watched link leads to no folder, until another one is watched."""
        self.folder_unreadable(f"the link leads to {target}, which is no folder")

    def unreadable(self, path: str, reason: str) -> None:
        """Say that an image or a subfolder cannot be read."""
        if self._troubles.get(path) != reason:
            _log.error("cannot be read, retrying", folder=self._folder, path=path, reason=reason)
        self._troubles[path] = reason
        self._show_unreadable()

    def readable(self, path: str) -> None:
        """Say that an image can be read, if it could not."""
        if self._troubles.pop(path, None) is not None:
            _log.info("can be read again", folder=self._folder, path=path)
            self._show_unreadable()

    def listed(self, images: Mapping[str, object], unreadable: Mapping[str, str]) -> None:
        """Note a listing of the whole folder: report what it could not read, and forget troubles that are over."""
        if self.former:
            return
        self._metrics.readable.set(1)
        if "" in self._troubles:
            _log.info("watched folder can be read again", folder=self._folder)
        for path in self._troubles.keys() - images.keys() - unreadable.keys():
            del self._troubles[path]
        self._show_unreadable()
        for path, reason in unreadable.items():
            self.unreadable(path, reason)

    def skipped(self, files: Mapping[str, Sequence[str]]) -> None:
        """Count the files with other suffixes. Say each suffix once; many cameras write a text beside each image."""
        if self.former:
            return
        self._metrics.skipped.set(sum(map(len, files.values())))
        for suffix in sorted(files.keys() - self._skipped)[: _MAX_SUFFIXES - len(self._skipped)]:
            self._skipped.add(suffix)
            log = _log.info if suffix in _BESIDE_IMAGES else _log.warning
            log(
                "files of this type are not sent: the suffix is none of an image",
                folder=self._folder,
                suffix=suffix,
                files=len(files[suffix]),
                path=files[suffix][0],
            )

    def links(self, links: Sequence[str]) -> None:
        """Say once of each symbolic link to a folder that it is not looked into."""
        for path in sorted(set(links) - self._links)[: _MAX_LINKS - len(self._links)]:
            self._links.add(path)
            _log.warning(
                "a subfolder is a symbolic link and is not looked into; mount its folder there, or watch that one",
                folder=self._folder,
                path=path,
            )

    def vanished(self, paths: Sequence[str], now: float) -> None:
        """Count complete images that were deleted before they were sent. Log at most one line in some seconds."""
        if paths:
            self._metrics.vanished.inc(len(paths))
            self._vanished += paths
        if self._vanished and now >= self._next_vanished_log:
            _log.error(
                "images were deleted before they were sent, and their parts are not announced",
                folder=self._folder,
                count=len(self._vanished),
                paths=sorted(self._vanished)[:_NAMES],
            )
            self._next_vanished_log, self._vanished = now + _LATE_LOG_S, []

    def refused(self, path: str) -> None:
        """Say that the category of an image is unknown."""
        self._metrics.refused.inc()
        _log.error("image refused: its path fits no category of --category-from", folder=self._folder, path=path)

    def late(self, path: str, late_s: float, now: float) -> None:
        """Count an image whose deadline passed before it was found. Log at most one line in some seconds."""
        self._metrics.late.inc()
        self._late.append(late_s)
        if now >= self._next_late_log:
            _log.warning(
                "images are late: found after their deadline",
                folder=self._folder,
                path=path,
                count=len(self._late),
                latest_s=round(max(self._late), 3),
            )
            self._next_late_log, self._late = now + _LATE_LOG_S, []

    def _show_unreadable(self) -> None:
        if not self.former:
            self._metrics.unreadable.set(len(self._troubles))
