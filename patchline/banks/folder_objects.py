"""Objects in a folder that several hosts may share, such as one on NFS."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from patchline.banks.objects import StoreUnavailable
from patchline.banks.replace_folder import sync_folder

_TEMPORARY = ".new-"  # no key begins with a dot


class FolderObjects:
    """Implements `patchline.banks.objects.Objects`: each object is a file.

    A file is written under another name, synced, and linked to its own: link(2) fails if there is one, in one step, on
    local file systems and on NFS. Whoever reads finds a complete file or none.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self, key: str, content: bytes) -> bool:
        """See `Objects`."""
        path = self._folder / key
        temporary = path.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                _write_synced(temporary, content)
                created = _link(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
            if created:
                sync_folder(path.parent)
        except OSError as error:
            raise _unavailable(path, "written", error) from error
        return created

    def read(self, key: str) -> bytes | None:
        """See `Objects`."""
        path = self._folder / key
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unavailable(path, "read", error) from error

    def names(self, prefix: str) -> list[str]:
        """See `Objects`."""
        path = self._folder / prefix
        try:
            return sorted(file.name for file in path.iterdir() if not file.name.startswith("."))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unavailable(path, "listed", error) from error


def _link(temporary: Path, path: Path) -> bool:
    """Give a file its name. Return False if the name is taken.

    An NFS server may have done it although its answer was lost, and the second attempt fails then: the file has two
    names (open(2), on O_EXCL and NFS).
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        return temporary.stat().st_nlink == 2
    return True


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _unavailable(path: Path, done: str, error: OSError) -> StoreUnavailable:
    return StoreUnavailable(f"{path}: cannot be {done} ({error.strerror}); is the store mounted, and may this user?")
