"""A store of pictures in a folder: a file for each digest, in subfolders of its first two digits."""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from patchline.archive.store import StoreUnavailable
from patchline.runtime import disk

_DIGEST = re.compile(r"[0-9a-f]{64}")


class FolderStore:
    """Implements `patchline.archive.store.Store`.

    A file is written under another name, synced and renamed, so that it is there as a whole or not at all. The folder
    is never made by `put`: one that is missing is a disk that is not mounted.

    Args:
        folder: of the pictures. `make` makes it.
        min_free_bytes: free disk space that is left.
    """

    def __init__(self, folder: Path, min_free_bytes: int = 0) -> None:
        self._folder, self._min_free_bytes = folder, min_free_bytes

    def make(self) -> None:
        """Make the folder, for its owner only. Raises StoreUnavailable."""
        with _errors():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, digest: str, body: bytes) -> None:
        """See `Store`."""
        file = self._file(digest)
        with _errors():
            if file.exists():
                return
            self._require_space(len(body))
            try:
                file.parent.mkdir(mode=0o700)
                disk.sync(self._folder)
            except FileExistsError:
                pass
            unfinished = file.with_name(f".{digest}.part")
            with unfinished.open("wb") as opened:
                opened.write(body)
                opened.flush()
                os.fsync(opened.fileno())
            unfinished.replace(file)
            disk.sync(file.parent)

    def get(self, digest: str) -> bytes | None:
        """See `Store`."""
        with _errors():
            self._require_folder()
            try:
                return self._file(digest).read_bytes()
            except FileNotFoundError:
                return None

    def delete(self, digest: str) -> None:
        """See `Store`."""
        with _errors():
            self._require_folder()
            self._file(digest).unlink(missing_ok=True)

    def list(self) -> Iterator[str]:
        """See `Store`."""
        with _errors():
            for folder in self._folder.iterdir():
                if folder.is_dir():
                    yield from (file.name for file in folder.iterdir() if _DIGEST.fullmatch(file.name))

    def check(self) -> None:
        """See `Store`."""
        with _errors():
            self._require_space(0)

    def check_writing(self) -> None:
        """See `Store`."""
        self.check()
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise StoreUnavailable(f"{self._folder}: this user may not write there")

    def free_bytes(self) -> float:
        """Return the free bytes of the disk; NaN if the folder is missing or does not answer."""
        try:
            return float(shutil.disk_usage(self._folder).free)
        except OSError:
            return math.nan

    def _file(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest

    def _require_folder(self) -> None:
        if not self._folder.is_dir():
            raise StoreUnavailable(f"{self._folder}: is missing; is its disk mounted?")

    def _require_space(self, needed: int) -> None:
        self._require_folder()
        free = shutil.disk_usage(self._folder).free
        if free - needed < self._min_free_bytes:
            raise StoreUnavailable(
                f"{self._folder}: {free} bytes of the disk are free, and archive.pictures.min_free_bytes are to be left"
            )


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"{error.filename or 'the folder of pictures'}: {error.strerror or error}") from error
