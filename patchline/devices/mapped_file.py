"""Files that a library has mapped into the memory of this process."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

_MAPS = Path("/proc/self/maps")  # each line: addresses, rights, offset, device, inode and path, see proc(5)


def let_go(path: Path) -> None:
    """Take the pages of a file out of the memory of this process. Who reads them again gets them from the file.

    Mappings that this process may have changed stay. On another system than Linux, nothing changes.
    """
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    if madvise is None or not _MAPS.exists():
        return
    for line in _MAPS.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        addresses, rights, _, _, _, *mapped = line.split(maxsplit=5)
        if mapped == [os.path.realpath(path)] and rights.startswith("r-"):
            begin, end = (int(address, 16) for address in addresses.split("-"))
            madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)
