"""Memory banks that are prepared for the search, once per host: all its workers map the same files.

Layout, below the folder: `CATEGORY/DIGEST-KEY`, for the index with that digest, and what has prepared it (`_key`). What
is mapped stays in memory when its file is deleted.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import shutil
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from patchline.banks import search_file
from patchline.banks.store import IndexFile
from patchline.inspection.search import exact_search, lower_bounds, search_arrays
from patchline.inspection.search.exact_search import Search
from patchline.runtime import disk

_KEPT = 4  # of a category: the active bank, the one before, the shadow, and one more
_LEFT_OVER_S = 86_400.0  # a file is written in seconds
_FORGOTTEN_S = 30 * 86_400.0


@dataclass
class PreparedBanks:
    """The prepared banks of this host.

    Attributes:
        folder: is made if it is missing.
        warn: called once, with a sentence, if files cannot be kept. Each worker then has the banks in its own memory.
    """

    folder: Path
    warn: Callable[[str], None]
    _warning: threading.Lock = field(default_factory=threading.Lock)  # whoever gets it warns, and keeps it

    def search(self, index: IndexFile) -> Search:
        """Return the search of a bank, prepared now if it is not here yet.

        Raises:
            SetupError: the index file is damaged.
        """
        path = self.folder / index.manifest.category / f"{index.manifest.index_sha256}-{_key()}"
        made = None
        try:
            arrays = search_file.read(path)
            if arrays is None:
                made = exact_search.with_pruning(index.features())
                search_file.write(path, search_arrays.arrays_of(made))
                arrays = search_file.read(path)
                _tidy(path.parent)
            else:
                index.require_undamaged()
        except OSError as error:
            self._warn_once(error)
            return made or exact_search.with_pruning(index.features())
        if arrays is None:  # a disk that does not keep what was written
            return made or exact_search.with_pruning(index.features())
        with suppress(OSError):
            path.touch()  # `_tidy` knows by this time which files are needed
        return search_arrays.search_of(arrays)

    def forget_all_but(self, names: Collection[str]) -> None:
        """Delete the files of other categories that nobody has opened for a month."""
        with suppress(OSError):
            for below in self.folder.iterdir():
                opened = max((path.stat().st_mtime for path in below.iterdir()), default=0.0)
                if below.name not in names and time.time() - opened > _FORGOTTEN_S:
                    shutil.rmtree(below, ignore_errors=True)

    def _warn_once(self, error: OSError) -> None:
        if self._warning.acquire(blocking=False):
            self.warn(
                f"{error.filename or self.folder}: prepared memory banks cannot be kept ({error.strerror}), so each "
                "worker has them in its own memory; let this user write to paths.served_banks, and make room there"
            )


@functools.cache
def _key() -> str:
    """What the arrays of a prepared bank follow from beside its features: code, numpy, and the kernels of this CPU."""
    sources = [inspect.getsource(module) for module in (exact_search, lower_bounds, search_arrays, search_file)]
    return hashlib.sha256(repr((sources, np.__version__, exact_search.blas_kernels())).encode()).hexdigest()[:16]


def _tidy(folder: Path) -> None:
    """Delete all but the files of a category that were opened last, and what a killed worker has left unfinished."""
    with suppress(FileNotFoundError):  # another worker tidies
        files = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        complete = [path for path in files if not path.name.startswith(disk.NEW)]
        unfinished = [path for path in files if path not in complete]
        old = [path for path in unfinished if time.time() - path.stat().st_mtime > _LEFT_OVER_S]
        for path in (*complete[_KEPT:], *old):
            path.unlink(missing_ok=True)
