"""Events of a folder from the kernel, by inotify(7). The only inotify_simple user.

Events make a watched folder fast. Nothing depends on them: they are lost when the kernel's queue overflows, and some
file systems do not have them for what other hosts write.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

import structlog
from inotify_simple import INotify, flags

from patchline.protocol import image_files

_log = structlog.get_logger(__name__)
_MASK = flags.CREATE | flags.MODIFY | flags.CLOSE_WRITE | flags.MOVED_TO | flags.MOVED_FROM | flags.ONLYDIR
_MOUNTS = Path("/proc/self/mountinfo")
# What other hosts, or processes beside the mount, write to these makes no event here.
_WITHOUT_EVENTS = re.compile(
    r"nfs4?|cifs|smb.*|smbfs|9p|virtiofs|ceph|glusterfs|lustre|afs|overlay|vboxsf|fuse(\..*)?|unknown"
)


class Kind(Enum):
    """What has happened."""

    ARRIVED = auto()  # a file is there; it may still be written
    WRITTEN = auto()  # a file was created or written into, and its writer has not closed it yet
    CLOSED = auto()  # a file was closed by its writer
    MOVED = auto()  # a file was moved in
    FOLDER = auto()  # a folder is there
    OVERFLOW = auto()  # events were lost


@dataclass(frozen=True)
class Event:
    """An event and the relative path of its file or folder."""

    kind: Kind
    path: str = ""


class FolderEvents:
    """The events of the watched folders below `root`. If inotify cannot be used, there are none."""

    def __init__(self, root: Path, stop: threading.Event) -> None:
        self._root = root
        self._stop = stop
        self._folders: dict[int, str] = {}
        self._complete = True
        try:
            self._inotify: INotify | None = INotify()
        except OSError as error:
            self._inotify = None
            self._lose("inotify cannot be used; raise fs.inotify.max_user_instances", error)

    @property
    def complete(self) -> bool:
        """True if every folder is watched, and its file system has events for what any host writes."""
        return self._complete and not _WITHOUT_EVENTS.fullmatch(file_system(self._root))

    def watch(self, folder: str) -> None:
        """Watch a folder, without its subfolders. Harmless if it is watched already or gone."""
        if self._inotify is None:
            return
        try:
            self._folders[self._inotify.add_watch(self._root / folder, _MASK)] = folder
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return
        except OSError as error:
            self._lose("a folder cannot be watched; raise fs.inotify.max_user_watches", error)

    def read(self, timeout_s: float) -> list[Event]:
        """Return the events since the last call. Wait for the first one, but no longer than `timeout_s`."""
        if self._inotify is None:
            self._stop.wait(timeout_s)
            return []
        events = []
        for wd, mask, _, name in self._inotify.read(timeout=int(timeout_s * 1000)):
            event = self._event(wd, mask, name)
            if event is not None:
                events.append(event)
        return events

    def close(self) -> None:
        """Stop watching."""
        if self._inotify is not None:
            self._inotify.close()

    def _event(self, wd: int, mask: int, name: str) -> Event | None:
        if mask & flags.Q_OVERFLOW:
            return Event(Kind.OVERFLOW)
        if mask & flags.IGNORED:
            self._folders.pop(wd, None)
        if wd not in self._folders or not name or image_files.is_left_out(name):
            return None
        path = f"{self._folders[wd]}/{name}".lstrip("/")
        if mask & flags.ISDIR:
            if mask & flags.MOVED_FROM:
                self._unwatch(path)
                return None
            return Event(Kind.FOLDER, path)
        if mask & flags.MOVED_FROM or not image_files.has_image_suffix(name):
            return None
        return Event(self._kind_of_file(mask, path), path)

    def _kind_of_file(self, mask: int, path: str) -> Kind:
        if mask & flags.MOVED_TO:
            return Kind.MOVED
        if mask & flags.CLOSE_WRITE:
            return Kind.CLOSED
        return Kind.WRITTEN if mask & flags.MODIFY or self._has_writer(path) else Kind.ARRIVED

    def _has_writer(self, created: str) -> bool:
        """Return True unless a new name is a link: nobody closes it."""
        try:
            status = (self._root / created).lstat()
        except OSError:
            return True
        return stat.S_ISREG(status.st_mode) and status.st_nlink == 1

    def _unwatch(self, moved: str) -> None:
        """Remove the watches of a folder that was moved away, and of its subfolders."""
        assert self._inotify is not None
        for wd, folder in list(self._folders.items()):
            if folder == moved or folder.startswith(f"{moved}/"):
                del self._folders[wd]
                with contextlib.suppress(OSError):  # the folder may be gone by now
                    self._inotify.rm_watch(wd)

    def _lose(self, message: str, error: OSError) -> None:
        if self._complete:
            _log.warning(message, folder=str(self._root), reason=error.strerror)
        self._complete = False


def file_system(path: Path) -> str:
    """Return the type of the file system of a path, such as `ext4` or `nfs4` (proc(5)), or `unknown`."""
    best, type_ = "", "unknown"
    target = os.path.realpath(path)
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return type_
    for line in lines:
        mount, _, rest = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), mount.split(" ")[4])
        inside = point == "/" or target == point or target.startswith(f"{point}/")
        if inside and len(point) >= len(best):  # of two mounts on one point, the later one is seen
            best, type_ = point, rest.split(" ")[0]
    return type_
