"""Replace a folder in one step: a reader finds either the old or the new folder at any moment."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path

from patchline.runtime import disk

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # renameat2(2)


def replace_folder(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`, and delete the old folder. Both must be in the same file system.

    Args:
        new: a complete folder, synced to disk.
        folder: may be missing.
    """
    if not folder.exists():
        new.rename(folder)
    elif not _exchange(new, folder):
        old = folder.with_name(f".{folder.name}.old")  # the file system cannot exchange folders: two steps
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    disk.sync(folder.parent)
    shutil.rmtree(new, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0)
