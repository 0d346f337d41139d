"""Remembers on disk which images of a watched folder were taken, and which were handed on, by path and signature.

No clock decides what is new, so neither a wrong clock nor a restart hides an image or sends it twice. A thread writes,
in batches. All rows are in memory too, so that a disk that is full, or does not answer, holds up no image for long.

An image is on disk before it is handed on. If the publisher is killed then, and a program sets the time of the file,
the next publisher sends the same job again, and not a second one on the same part.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import Enum, auto
from pathlib import Path
from typing import TypeVar

import structlog

from patchline.protocol.errors import PatchlineError, SetupError
from patchline.publisher import taken_file
from patchline.publisher.taken_file import Begun, State, Taken
from patchline.publisher.watched_folder import Signature
from patchline.runtime import damage, locks

_log = structlog.get_logger(__name__)
_CLOCK_TICK_NS = 20_000_000  # upper bound of the resolution of file times
_LATE_S = 5.0  # a disk that has written nothing for this long is reported
_CLOSE_S = 10.0
_BEGIN_S = 0.2  # longest wait of an image for the disk
_DIGEST_BYTES, _DIGEST_BYTES_BEFORE = 20, 16

_T = TypeVar("_T")


class Known(Enum):
    """What is known of a content."""

    NEW = auto()
    UNDER_WAY = auto()  # this process has handed it on
    TAKEN = auto()  # it was accepted, or left out at the first start


class Content:
    """What a file holds, and how it is remembered.

    Attributes:
        sha256: of the image, 32 bytes.
    """

    def __init__(self, image: bytes) -> None:
        self._image = image
        self.sha256 = hashlib.sha256(image).digest()

    @property
    def digest(self) -> bytes:
        """What is remembered of it: 20 bytes, since all rows are in memory."""
        return self.sha256[:_DIGEST_BYTES]

    def has(self, digest: bytes) -> bool:
        """Return True if a remembered digest is that of this content. Earlier builds remember 16 bytes of BLAKE2b."""
        if len(digest) == _DIGEST_BYTES_BEFORE:
            return digest == hashlib.blake2b(self._image, digest_size=_DIGEST_BYTES_BEFORE).digest()
        return digest == self.digest


class TakenImages:
    """The taken images of one folder. One process at a time uses the file.

    Args:
        path: the file; created if missing.
        in_use: what to say if another process uses it.

    Raises:
        SetupError: the file cannot be used, or another process uses it.
        DamagedError: it is damaged and cannot be replaced. Other calls may raise this, too.
    """

    def __init__(self, path: Path, in_use: str = "another process remembers the images of this folder") -> None:
        self._path = path
        self._lock = threading.Lock()
        self._flushed = threading.Condition(self._lock)
        self._begun: dict[str, Begun] = {}
        self._unwritten: dict[str, State] = {}
        self._awaited: dict[str, State] = {}
        self._unwritten_since: float | None = None
        self._failing = self._late = self._begins_late = False
        self._error: PatchlineError | None = None  # of the thread that writes
        self._wake, self._ended = threading.Event(), False
        self._writer = threading.Thread(target=self._write_behind, name="taken-images", daemon=True)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._process_lock = locks.claim(path.with_name(path.name + ".lock"), in_use)
            damage.finish(path)
            self._sqlite = taken_file.connect(path)
            self._use(taken_file.prepare)
            self._taken: dict[str, Taken] = self._use(taken_file.load_taken)
            self._begun_before: dict[str, Begun] = self._use(taken_file.load_begun)  # by a process that has ended
        except (OSError, sqlite3.Error) as error:
            raise SetupError(f"{path}: cannot be used to remember taken images ({error})") from error

    @property
    def is_new(self) -> bool:
        """True until `start`."""
        (version,) = self._use(lambda sqlite: sqlite.execute("PRAGMA user_version").fetchone())
        return bool(version < taken_file.STARTED) and not (self._taken or self._begun_before)

    def start(self, taken: Mapping[str, Signature]) -> None:
        """Remember what counts as taken at the first start.

        Raises:
            SetupError: the file cannot be written.
        """
        self._taken = {path: Taken(signature, None) for path, signature in taken.items()}
        try:
            taken_file.start(self._sqlite, self._taken)
        except sqlite3.Error as error:
            raise SetupError(f"{self._path}: cannot be written ({error}); free disk space and start again") from error

    def signatures(self) -> dict[str, Signature]:
        """Return the signatures of the images that need not be read again, by path."""
        return {path: row.signature for path, row in self._taken.items() if path not in self._begun_before}

    def knows(self, path: str, signature: Signature, content: Content) -> Known:
        """Return whether this content was taken or begun, and only what the file system says of it is new.

        That is another inode or change time, as after a mount or a chmod, or a modification time that a program has
        set, as after a copy that preserves times: it differs from the change time then. An image that was left out at
        the first start was never read: it is known by its size and modification time, which a chmod leaves alone.
        """
        with self._lock:
            begun, taken = self._begun.get(path), self._taken.get(path)
        row = begun or taken
        if row is None or not _is_same_content(row, signature, content):
            return Known.NEW
        return Known.TAKEN if begun is None else Known.UNDER_WAY

    def begun_before(self, path: str, signature: Signature, content: Content) -> int | None:
        """Return the time of capture of the job that a former process may have sent of this content, or None."""
        begun = self._begun_before.get(path)
        if begun is None or not _is_same_content(begun, signature, content):
            return None
        return begun.captured_at

    def begin(self, path: str, signature: Signature, content: Content, captured_at: int) -> None:
        """Remember an image that will be sent after `await_begun`."""
        with self._lock:
            self._begun_before.pop(path, None)
            self._begun[path] = Begun(signature, content.digest, captured_at)
            self._awaited[path] = self._note(path)

    def await_begun(self) -> None:
        """Wait until all images that were begun are on disk, but not for a slow disk.

        Raises:
            DamagedError: the file is damaged and cannot be replaced.
        """
        self.flush_later()
        with self._lock:
            awaited, self._awaited = self._awaited, {}
            if not (self._begins_late or self._failing):
                self._begins_late = not self._flushed.wait_for(lambda: self._is_settled(awaited), _BEGIN_S)

    def add(self, path: str, signature: Signature, content: Content) -> None:
        """Remember an image that was accepted. The next flush writes it. Called by any thread."""
        with self._lock:
            self._taken[path] = Taken(signature, content.digest)
            begun = self._begun.get(path)
            if begun is not None and begun[:2] == (signature, content.digest):
                del self._begun[path]
            self._note(path)

    def remove(self, paths: Iterable[str]) -> None:
        """Forget images that are gone. The next flush writes it."""
        with self._lock:
            for path in paths:
                self._taken.pop(path, None)
                self._begun_before.pop(path, None)
                self._note(path)

    def gone(self, paths: Collection[str]) -> set[str]:
        """Return the paths of images that a former process has begun, and that are not among these."""
        return self._begun_before.keys() - set(paths)

    def flush_later(self) -> None:
        """Have the thread write what has changed. It waits for no disk, and says once if the disk does not answer.

        Raises:
            DamagedError: the file is damaged and cannot be replaced.
        """
        if self._error is not None:
            raise self._error
        if not self._unwritten:
            return
        if self._unwritten_since is None:
            self._unwritten_since = time.monotonic()
        if self._writer.ident is None:
            self._writer.start()
        self._wake.set()
        if self.unwritten_s() > _LATE_S and not (self._late or self._failing):
            self._late = True
            _log.error(
                "taken images are not remembered: the disk of paths.spool does not answer; images are still sent",
                path=str(self._path),
                for_s=round(self.unwritten_s(), 1),
            )

    def unwritten_s(self) -> float:
        """Return for how long changes have waited to be written, in seconds; 0 if everything is on disk."""
        since = self._unwritten_since
        return 0.0 if since is None else time.monotonic() - since

    def flush(self) -> None:
        """Write what has changed. What cannot be written now is written later."""
        with self._lock:
            changes = dict(self._unwritten)
        if not changes:
            return
        try:
            self._use(lambda sqlite: taken_file.write(sqlite, changes))
        except sqlite3.Error as error:
            if not self._failing:
                _log.error("taken images are not remembered on disk, retrying", path=str(self._path), reason=str(error))
            with self._lock:
                self._failing = True
                self._flushed.notify_all()
            return
        with self._lock:
            for path, state in changes.items():
                if self._unwritten.get(path) is state:
                    del self._unwritten[path]
            self._unwritten_since = None
            self._failing = self._late = self._begins_late = False
            self._flushed.notify_all()

    def close(self) -> None:
        """Write what has changed and close the file. If the disk does not answer, leave it: the images come again."""
        self._ended = True
        self._wake.set()
        if self._writer.ident is not None:
            self._writer.join(_CLOSE_S)
            if self._writer.is_alive():
                _log.error("taken images are not remembered: the disk does not answer", path=str(self._path))
                return
        self.flush()
        self._sqlite.close()
        os.close(self._process_lock)

    def _write_behind(self) -> None:
        while not self._ended:
            self._wake.wait()
            self._wake.clear()
            try:
                self.flush()
            except PatchlineError as error:
                with self._lock:
                    self._error = error
                    self._flushed.notify_all()
                return

    def _is_settled(self, awaited: Mapping[str, State]) -> bool:
        """Return True if these states need not be waited for. The lock is held."""
        is_written = all(self._unwritten.get(path) is not state for path, state in awaited.items())
        return is_written or self._failing or self._error is not None

    def _note(self, path: str) -> State:
        """Have the state of a path written. The lock is held."""
        state = State(self._taken.get(path), self._begun.get(path) or self._begun_before.get(path))
        self._unwritten[path] = state
        return state

    def _use(self, operation: Callable[[sqlite3.Connection], _T]) -> _T:
        """Return the result of an operation. It is repeated once if the file is damaged, on what can be read of it."""
        try:
            return operation(self._sqlite)
        except (sqlite3.Error, MemoryError, ValueError) as error:
            if not isinstance(error, ValueError) and not damage.is_damage(error):
                raise
            self._sqlite.close()
            damage.replace(self._path, str(error), taken_file.copy_readable)
            self._sqlite = taken_file.connect(self._path)
            taken_file.prepare(self._sqlite)
        return operation(self._sqlite)


def _is_same_content(row: Taken | Begun, signature: Signature, content: Content) -> bool:
    """Return True if only what the file system says of a content is new. See `TakenImages.knows`."""
    if row.digest is None:
        return row.signature[1:3] == signature[1:3]
    if not content.has(row.digest):
        return False
    was_set = abs(signature.ctime_ns - signature.mtime_ns) > _CLOCK_TICK_NS
    return row.signature.mtime_ns == signature.mtime_ns or (row.signature.inode == signature.inode and was_set)
