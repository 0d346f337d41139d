"""Copies of versions from the shared store on this host, so that a worker can start again without the store.

Layout, below the folder:
    `CATEGORY/DIGEST/`: the files of a version.
    `CATEGORY/served.json`: the version that was served last.
Workers of one host may share the folder.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import pydantic

from patchline.banks import store
from patchline.banks.version_log import Record, State
from patchline.banks.versions import Versions
from patchline.inspection.memory_bank import Sha256
from patchline.protocol import messages
from patchline.protocol.errors import SetupError
from patchline.runtime import disk

_SERVED_FILE = "served.json"
_MODE = 0o644  # of the files
_LEFT_OVER_S = 86_400.0  # a copy takes minutes


class _Served(messages.Frozen):
    """`served.json`. The version is None if none was active: the bank in `paths.memory_banks` is served."""

    version: Sha256 | None


@dataclass(frozen=True)
class ServedBanks:
    """The copies on this host.

    Attributes:
        folder: is made if it is missing.
        versions: the store.
    """

    folder: Path
    versions: Versions

    def copy(self, category: str, record: Record) -> Path:
        """Return the folder with the copy of a published version; every file of it has its digest.

        Raises:
            StoreUnavailable: it is not here, and the store cannot be read.
            SetupError: the version in the store is damaged, or the folder cannot be written.
        """
        folder, files = self.folder / category / record.version, record.files or {}
        try:
            if not _is_complete(folder, files):
                self._fetch(category, record.version, files, folder)
        except OSError as error:
            raise self._unusable(error) from error
        return folder

    def remember(self, category: str, version: str | None, state: State) -> None:
        """Keep which version is served, and delete the copies of versions that nobody needs next.

        Args:
            category: of the bank.
            version: that is served; None: that in `paths.memory_banks`.
            state: of the category. The copies of the active version, of the one before and of the shadow stay.

        Raises:
            SetupError: the folder cannot be written.
        """
        shadow = None if state.shadow is None else state.shadow.version
        below, needed = self.folder / category, {version, state.active, state.previous, shadow}
        content = _Served(version=version).model_dump_json().encode() + b"\n"
        try:
            below.mkdir(parents=True, exist_ok=True)
            if not _has_content(below / _SERVED_FILE, content):
                disk.replace_file(below / _SERVED_FILE, content, _MODE)
            for path in below.iterdir():
                if _is_needless(path, needed):
                    shutil.rmtree(path, ignore_errors=True)
        except OSError as error:
            raise self._unusable(error) from error

    def categories(self) -> list[str]:
        """Return the categories of which a version was served here. Raises SetupError: this user may not read that."""
        try:
            names = sorted(path.name for path in self.folder.iterdir())
            return [name for name in names if (self.folder / name / _SERVED_FILE).is_file()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            text = f"{error.filename}: cannot be read ({error.strerror}); run it as the user of the workers"
            raise SetupError(text) from error

    def last(self, category: str) -> Path | None:
        """Return the copy of the version that was served last; None if it was the bank in `paths.memory_banks`.

        Raises:
            SetupError: nothing was served here, or the file is damaged.
        """
        path = self.folder / category / _SERVED_FILE
        try:
            version = _Served.model_validate_json(path.read_bytes()).version
        except (OSError, pydantic.ValidationError) as error:
            text = f"{path}: does not say which bank was served last; the store of memory banks must be read first"
            raise SetupError(text) from error
        return None if version is None else self.folder / category / version

    def _fetch(self, category: str, version: str, files: Mapping[str, str], folder: Path) -> None:
        """Copy a version from the store under another name, then give it its name."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=disk.NEW, dir=folder.parent))
        try:
            for name, sha256 in files.items():
                disk.replace_file(new / name, self.versions.file(category, version, name, sha256), _MODE)
            shutil.rmtree(folder, ignore_errors=True)  # damaged, or there is none
            try:
                new.rename(folder)
            except OSError:
                if not _is_complete(folder, files):  # else another worker of this host was faster
                    raise
            disk.sync(folder.parent)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def _unusable(self, error: OSError) -> SetupError:
        return SetupError(
            f"{error.filename or self.folder}: copies of memory banks cannot be kept ({error.strerror}); "
            "let this user write to paths.served_banks, and make room there"
        )


def _is_needless(folder: Path, needed: Collection[str | None]) -> bool:
    """Return True for a copy that no worker needs, or that a worker did not finish since it was killed.

    Other workers of the host may be copying now.
    """
    if not folder.name.startswith(disk.NEW):
        return folder.is_dir() and not folder.name.startswith(".") and folder.name not in needed
    try:
        return folder.is_dir() and time.time() - folder.stat().st_mtime > _LEFT_OVER_S
    except FileNotFoundError:  # it has its name now
        return False


def _is_complete(folder: Path, files: Mapping[str, str]) -> bool:
    try:
        return all(store.digest((folder / name).read_bytes()) == sha256 for name, sha256 in files.items())
    except FileNotFoundError:
        return False


def _has_content(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except FileNotFoundError:
        return False
