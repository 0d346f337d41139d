"""The room on a plant's disk. Processes whose logs are on a full disk cannot say what is wrong, so that this does."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from patchline import config

FULL = "its disk is full, make room on it"
_LOG_BYTES = 1_000_000  # what an ended process gives back is no room for a log
_RABBITMQ_BYTES = 50_000_000  # its own disk_free_limit
_AGAIN = 1.1  # of a limit: from there on there is room again


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the disk of a folder, for this user. Raises OSError."""
    return shutil.disk_usage(folder).free


def is_full(folder: Path) -> bool:
    """Return True if the disk of a folder takes no more lines of a log."""
    try:
        return free_bytes(folder) < _LOG_BYTES
    except OSError:
        return False


def limits(settings: config.Config) -> list[tuple[int, str]]:
    """Return the free bytes below which processes of a plant take less, the highest first, and what they leave."""
    pictures, publisher = settings.archive.pictures, settings.publisher
    found = [
        (_RABBITMQ_BYTES, "a RabbitMQ on it takes nothing, and pictures wait with their publishers"),
        (publisher.spool_min_free_bytes, "publishers keep nothing that RabbitMQ does not take: it waits in its folder"),
    ]
    if pictures.sent and not pictures.store:
        found.append((pictures.min_free_bytes, "the archive stores no pictures of parts"))
    return sorted(found, reverse=True)


@dataclass
class Room:
    """Watches the disk of a folder, and tells of each limit that it falls below, and of the room that is there again.

    Attributes:
        folder: of the plant.
        limits: see `limits`.
        say: takes what people should know.
        free: returns the free bytes of a folder.
    """

    folder: Path
    limits: Sequence[tuple[int, str]]
    say: Callable[[str], None]
    free: Callable[[Path], int] = free_bytes
    _below: int = 0  # that many of the limits

    def look(self) -> None:
        """Look once. A disk that does not answer says nothing here."""
        try:
            free = self.free(self.folder)
        except OSError:
            return
        below = sum(free < limit for limit, _ in self.limits)
        still = min(self._below, sum(free < limit * _AGAIN for limit, _ in self.limits))
        if max(below, still) == self._below:
            return
        self._below = max(below, still)
        text = "there is room again" if not self._below else f"so {self.limits[self._below - 1][1]}; make room on it"
        self.say(f"{self.folder}: its disk has {free / 1e6:.0f} MB free, {text}")
