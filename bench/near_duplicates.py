"""`python -m bench.near_duplicates`: are distinct solar cells taken for near-duplicates, and are copies found?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from patchline.banks import near_duplicates
from patchline.demo import cells

_COPIED = 100
_Picture = NDArray[np.uint8]


def main() -> None:
    """Print the near-duplicates among the demo's good cells, and the share of the copies that are found."""
    for kind in cells.CATEGORIES.values():
        pictures = _good_cells(kind)
        pairs = _find(pictures)
        alike = {number for pair in pairs for number in pair}
        print(f"{kind}: {len(pictures)} cells, {len(pairs)} pairs of {len(alike)} taken for near-duplicates")
        for name, change in _CHANGES.items():
            originals = pictures[:_COPIED]
            pairs = _find(originals + [change(picture) for picture in originals])
            found = sum((number, number + _COPIED) in pairs for number in range(_COPIED))
            print(f"{kind}: {name}: {found} of {_COPIED} copies found")


def _good_cells(kind: str) -> list[_Picture]:
    """Every second good cell, as the demo fits them."""
    data = cells.data_folder()
    rows = [line.split() for line in (data / "labels.csv").read_text(encoding="utf-8").splitlines()]
    names = [name for name, probability, cell_kind in rows if cell_kind == kind and float(probability) == 0.0]
    return [_read(data / name) for name in names[::2]]


def _read(path: Path) -> _Picture:
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR_RGB), np.uint8)


def _find(pictures: list[_Picture]) -> set[tuple[int, int]]:
    details = [near_duplicates.detail(picture) for picture in pictures]
    return set(near_duplicates.find(details, lambda number: pictures[number]))


def _as_jpeg(quality: int) -> Callable[[_Picture], _Picture]:
    def change(picture: _Picture) -> _Picture:
        encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)

    return change


def _halve(picture: _Picture) -> _Picture:
    return np.asarray(cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8)


def _move(picture: _Picture) -> _Picture:
    matrix = np.array([[1, 0, 1], [0, 1, -1]], np.float32)
    return np.asarray(cv2.warpAffine(picture, matrix, picture.shape[1::-1], borderMode=cv2.BORDER_REFLECT), np.uint8)


def _add_noise(picture: _Picture) -> _Picture:
    noise = np.random.default_rng(1).normal(0, 3, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


_CHANGES: dict[str, Callable[[_Picture], _Picture]] = {
    "JPEG q95": _as_jpeg(95),
    "JPEG q80": _as_jpeg(80),
    "half the size": _halve,
    "moved by a pixel": _move,
    "noise of 3 grey levels": _add_noise,
}

if __name__ == "__main__":
    main()
