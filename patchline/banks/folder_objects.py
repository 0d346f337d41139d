"""Objects in a folder that several hosts may share, such as one on NFS."""

from __future__ import annotations

import os
import stat
import tempfile
import uuid
from pathlib import Path

from patchline.banks.objects import StoreUnavailable
from patchline.runtime import disk, this_user

_TEMPORARY = ".new-"  # no key begins with a dot
_FILE = 0o444  # the permissions of the store's folder that its files have, too
_OWNER = stat.S_IRUSR | stat.S_IWUSR  # of each file


class FolderObjects:
    """Implements `patchline.banks.objects.Objects`: each object is a file.

    A file is written under another name, synced, and linked to its own: link(2) fails if there is one, in one step, on
    local file systems and on NFS. Whoever reads finds a complete file or none.

    What is made has the permissions of the store's folder, whatever the umask of its maker: who may read or write there
    may do so below, too. Only its owner could change a file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self, key: str, content: bytes) -> bool:
        """See `Objects`."""
        path = self._folder / key
        temporary = path.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
        try:
            self._make_folders(path.parent)
            try:
                _write_synced(temporary, content, self._mode() & _FILE)
                created = _link(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
            if created:
                disk.sync(path.parent)
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

    def why_closed(self, prefix: str) -> str | None:
        """See `Objects`."""
        path = self._folder / prefix
        there = next((each for each in (path, *path.parents) if is_folder(each)), path)
        if os.access(there, os.W_OK | os.X_OK):
            return None
        return f"{there}: {this_user.name()} may not write there"

    def _mode(self) -> int:
        """The permissions of the store's folder."""
        return stat.S_IMODE(self._folder.stat().st_mode)

    def _make_folders(self, folder: Path) -> None:
        """Make a folder, and those between it and the store's.

        Each gets its permissions before its name, so that nobody finds it closed.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        missing = [each for each in (folder, *folder.parents) if each.is_relative_to(self._folder)]
        for each in reversed([each for each in missing if not each.is_dir()]):
            new = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=each.parent))
            try:
                new.chmod(self._mode())
                new.rename(each)
            except OSError:
                new.rmdir()
                if not each.is_dir():  # else somebody else was faster
                    raise
            disk.sync(each.parent)


def is_folder(path: Path) -> bool:
    """Return True for a folder that this user can find."""
    try:
        return path.is_dir()
    except OSError:  # as below a folder that is closed to this user
        return False


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


def _write_synced(path: Path, content: bytes, mode: int) -> None:
    with path.open("xb") as file:
        os.fchmod(file.fileno(), mode | _OWNER)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _unavailable(path: Path, done: str, error: OSError) -> StoreUnavailable:
    if isinstance(error, PermissionError):
        return StoreUnavailable(f"{path}: cannot be {done} by {this_user.name()} ({error.strerror})")
    advice = "make room on its disk" if disk.is_full(error) else "is the store mounted?"
    return StoreUnavailable(f"{path}: cannot be {done} ({error.strerror}); {advice}")
