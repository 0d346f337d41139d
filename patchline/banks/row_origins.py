"""`rows.npz` of a memory bank: the picture and the patch that each row came from. A bank serves without it."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FILE = "rows.npz"


class Origin(StrEnum):
    """What is known of the good picture that a row of a bank came from."""

    FOUND = "found"
    UNKNOWN = "unknown"  # the bank does not say it
    UNREADABLE = "unreadable"
    CHANGED = "changed"


@dataclass(frozen=True)
class RowOrigins:
    """Where the rows of a bank came from.

    Attributes:
        paths: of the good images.
        image: int32 [rows], an index of `paths`.
        patch: int32 [rows], the number of the patch in its image, row by row of the grid.
    """

    paths: tuple[Path, ...]
    image: NDArray[np.integer[Any]]
    patch: NDArray[np.integer[Any]]

    def encode(self) -> bytes:
        """The content of the file."""
        target = io.BytesIO()
        paths = np.array([str(path.absolute()) for path in self.paths])
        np.savez_compressed(target, paths=paths, image=self.image.astype(np.int32), patch=self.patch.astype(np.int32))
        return target.getvalue()

    @classmethod
    def load(cls, folder: Path) -> RowOrigins | None:
        """Read the file of a bank. Return None if it has none, as those of earlier builds, or a damaged one."""
        try:
            with np.load(io.BytesIO((folder / FILE).read_bytes()), allow_pickle=False) as arrays:
                paths = tuple(Path(path) for path in arrays["paths"].tolist())
                return cls(paths, arrays["image"], arrays["patch"])
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            return None
