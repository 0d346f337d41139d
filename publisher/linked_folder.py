"""A watched folder that is given by a symbolic link: cameras and log rotation let the link lead to a new folder.

Each folder has a watch and a memory of its own, so what was taken is remembered when the link leads back. A former
folder is watched until nothing has happened in it for a while: its last images may still be written.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from patchline.publisher.folder_watch import STOP_POLL_S, FolderWatch
from patchline.publisher.source import Capture

_log = structlog.get_logger(__name__)
_FORMER_S = 60.0


class LinkedFolder:
    """The watches of the folders to which a link leads and has led.

    Args:
        link: the path as it was given; one of its parts is a symbolic link.
        note: a file that says where the link led last, for the next start.
        open_watch: opens the watch of a folder. It is called with False if images that are in it count as new.
        stop: ends `captures` when set.
    """

    def __init__(
        self, link: Path, note: Path, open_watch: Callable[[Path, bool], FolderWatch], stop: threading.Event
    ) -> None:
        self._link, self._note, self._open_watch, self._stop = link, note, open_watch, stop
        self._former: dict[FolderWatch, float] = {}  # with the time of the last capture, or of the change
        self._broken = False
        target, last = self._target(), _read(note)
        if last is not None and last != target and last.is_dir():
            self._leave(open_watch(last, True))
        self._current = open_watch(target, last is None or last == target)
        self._write_note(target)

    def captures(self) -> Iterator[Capture]:
        """Yield every complete image of the folder to which the link leads, and of former ones."""
        while not self._stop.is_set():
            self._follow()
            for watch in list(self._former):
                for capture in watch.turn(0.0):
                    self._former[watch] = time.monotonic()
                    yield capture
            yield from self._current.turn(STOP_POLL_S)

    def close(self) -> None:
        """Write what was accepted, and stop watching."""
        for watch in (*self._former, self._current):
            watch.close()

    def _target(self) -> Path:
        """Return where the link leads now; the link itself if it is missing."""
        return Path(os.path.realpath(self._link))

    def _follow(self) -> None:
        """Watch the folder to which the link leads now."""
        target = self._target()
        if target.is_dir():
            if target.is_symlink():  # it was made just now, after the look; the next look follows it
                return
            self._broken = self._current.reports.former = False
            if target != self._current.root:
                self._change_to(target)
        elif not self._broken:
            self._current.reports.broken_link(str(target))
            self._broken = self._current.reports.former = True
        for watch, active in list(self._former.items()):
            if watch.is_idle and time.monotonic() - active > _FORMER_S:
                del self._former[watch]
                watch.close()

    def _change_to(self, target: Path) -> None:
        _log.info("the watched link leads to another folder", link=str(self._link), folder=str(target))
        self._leave(self._current)
        known = next((watch for watch in self._former if watch.root == target), None)
        if known is not None:
            del self._former[known]
            known.reports.former = False
        self._current = known or self._open_watch(target, False)
        self._write_note(target)

    def _leave(self, watch: FolderWatch) -> None:
        watch.reports.former = True
        self._former[watch] = time.monotonic()

    def _write_note(self, target: Path) -> None:
        fresh = self._note.with_name(self._note.name + ".new")
        try:
            fresh.write_bytes(os.fsencode(target))
            fresh.replace(self._note)  # a full disk keeps the previous note, by which the next folder is a new one
        except OSError as error:  # a restart takes the images of the next folder for old ones
            _log.error("the target of the watched link cannot be noted", path=str(self._note), reason=error.strerror)


def _read(note: Path) -> Path | None:
    """Return the folder of a note; None if there is none, or a crash has cut it."""
    try:
        folder = Path(os.fsdecode(note.read_bytes()))
    except OSError:
        return None
    return folder if folder.is_absolute() else None
