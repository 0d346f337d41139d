"""Files with the arrays of a search, which processes map into their memory: the pages exist once on a host.

Layout: the SHA-256 of all that follows, 32 bytes; the shapes of the arrays by name, JSON, padded to 1,024 bytes from
the start of the file; the arrays, float32 in the byte order of the host, each padded to 64 bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchline.inspection.search.search_arrays import Arrays
from patchline.runtime import disk

_DIGEST_BYTES, _HEADER_BYTES, _ALIGNMENT, _ITEM_BYTES = 32, 1024, 64, 4


def write(path: Path, arrays: Arrays) -> None:
    """Write a file under another name, sync it to disk, and give it its name unless another process was faster.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, new = tempfile.mkstemp(prefix=disk.NEW, dir=path.parent)
    temporary = Path(new)
    try:
        with os.fdopen(descriptor, "wb") as file:
            digest = hashlib.sha256()
            file.seek(_DIGEST_BYTES)
            for part in _parts(arrays):
                digest.update(part)
                file.write(part)
            file.seek(0)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        if not path.exists():
            temporary.rename(path)
            disk.sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path) -> Arrays | None:
    """Map a file and return its arrays, which are read-only.

    Returns:
        None if there is no file. A file that is damaged is deleted, and counts as none.

    Raises:
        OSError: the file cannot be read or mapped.
    """
    try:
        with path.open("rb") as file:
            if file.read(_DIGEST_BYTES) == hashlib.file_digest(file, "sha256").digest():
                return _arrays(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError:
        return None
    path.unlink(missing_ok=True)
    return None


def _parts(arrays: Arrays) -> Iterator[bytes | memoryview]:
    header = json.dumps({name: array.shape for name, array in arrays.items()}).encode()
    yield header.ljust(_HEADER_BYTES - _DIGEST_BYTES)
    for array in arrays.values():
        yield np.ascontiguousarray(array, np.float32).reshape(-1).data.cast("B")
        yield bytes(-array.size * _ITEM_BYTES % _ALIGNMENT)


def _arrays(mapped: mmap.mmap) -> dict[str, NDArray[np.float32]]:
    shapes: Mapping[str, Sequence[int]] = json.loads(mapped[_DIGEST_BYTES:_HEADER_BYTES])
    arrays, position = {}, _HEADER_BYTES
    for name, shape in shapes.items():
        count = math.prod(shape)
        arrays[name] = np.frombuffer(mapped, np.float32, count, position).reshape(shape)
        position += count * _ITEM_BYTES
        position += -position % _ALIGNMENT
    return arrays
