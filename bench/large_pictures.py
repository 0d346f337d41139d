"""`python -m bench.large_pictures`: decoding and resizing of large pictures, on one thread, against RGB in full.

The memory is what a new process needs beyond the file, at most, for one picture.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from bench import isolated
from bench.table import Row, measure_in_turn, median_ms, of_this_machine, ratio_row
from patchline import config
from patchline.inspection import decode, preprocess

_SIDES = {5: (1944, 2592), 12: (3000, 4000), 20: (3648, 5472)}  # height and width, by megapixels
_SIDE = 256  # of the input of the default backbone
_KINDS = ("grey", "colour")
_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "BMP": ".bmp"}
_REPEATS = 3


def main() -> None:
    """Print the table; with the name of a picture and a way, the bytes that this process needs for it."""
    if sys.argv[1:]:
        print(_peak_bytes(*sys.argv[1:]))
        return
    of_this_machine(list(rows())).show()


def rows() -> Iterator[Row]:
    """Yield the time and the memory of each kind of picture."""
    for megapixels in _SIDES:
        for suffix in _SUFFIXES:
            for kind in _KINDS:
                name = f"{megapixels} {suffix} {kind}"
                yield time_of(megapixels, suffix, kind)
                memory = [int(isolated.run_module(__spec__.name, name, way, kernels=None)) for way in ("ours", "full")]
                yield ratio_row(f"{name}: memory", "MB", memory[0] / 1e6, memory[1] / 1e6)


def time_of(megapixels: int, suffix: str, kind: str) -> Row:
    """Compare the time of a kind of picture with that of RGB in full."""
    image = picture(megapixels, suffix, kind)
    return measure_in_turn(
        f"{megapixels} {suffix} {kind}: for the backbone : as RGB in full",
        "ms",
        partial(median_ms, partial(_ours, image), _REPEATS),
        partial(median_ms, partial(_in_full, image), _REPEATS),
        rounds=2,
    )


def picture(megapixels: int, suffix: str, kind: str) -> bytes:
    """Return an encoded picture of blurred noise."""
    sides, channels = _SIDES[megapixels], 1 if kind == "grey" else 3
    grain = np.random.default_rng(0).integers(0, 255, (*sides, channels), dtype=np.uint8)
    return cv2.imencode(_SUFFIXES[suffix], cv2.GaussianBlur(grain, (0, 0), 4))[1].tobytes()


def _ours(image: bytes) -> None:
    captured = decode.for_backbone(image, "image/png", config.Images(), resize=_SIDE)
    preprocess.prepare(captured.pixels, _SIDE, _SIDE)


def _in_full(image: bytes) -> None:
    """As builds until 2026-11-28."""
    rgb = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    preprocess.prepare(np.asarray(rgb, np.uint8), _SIDE, _SIDE)


def _peak_bytes(name: str, way: str) -> int:
    megapixels, suffix, kind = name.split()
    work = _ours if way == "ours" else _in_full
    work(cv2.imencode(_SUFFIXES[suffix], np.zeros((300, 300), np.uint8))[1].tobytes())  # all code is loaded
    image = picture(int(megapixels), suffix, kind)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
    before = _status_bytes("VmRSS")
    work(image)
    return _status_bytes("VmHWM") - before


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


if __name__ == "__main__":
    main()
