"""The picture of the README: `python -m tools.readme_picture` writes `docs/reject.png`.

A gravel texture of scikit-image (CC0, from CC0Textures) plays the part. The inspected piece is its lower right corner,
with a drawn scratch. The memory bank is fitted on pieces that have no pixel in common with it. The picture shows what
the product answers.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from pathlib import Path

import cv2
import numpy as np
import skimage
from numpy.typing import NDArray

from patchline import config
from patchline.banks import fit, serving
from patchline.devices import backbone
from patchline.inspection import picture

TARGET = Path("docs/reject.png")
_TEXTURE = Path(skimage.__file__).parent / "data" / "gravel.png"
_SIDE = 160  # of a piece, in pixels
_STRIDE = 44
_RESIZE = 256
_CATEGORY = config.Category(
    backbone="efficientnet_lite0",
    layer="blocks4+10",
    resize=_RESIZE,
    imagesize=_RESIZE,
    false_reject_rate=0.05,
    review_rate=0.1,
)


def main() -> None:
    """Fit, inspect, draw."""
    texture = np.asarray(cv2.imread(str(_TEXTURE), cv2.IMREAD_COLOR), np.uint8)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = config.Paths(models=folder, memory_banks=folder / "banks", spool=folder, gate=folder)
        settings = config.Config(paths=paths, categories={"gravel": _CATEGORY})
        _write_good_pieces(texture, folder / "good")
        fit.fit(settings, "gravel", folder / "good", seed=0)
        inspector = serving.load(settings, ["gravel"], backbone.CPU, streams=1)["gravel"]
        scratched = _with_scratch(texture[-_SIDE:, -_SIDE:])
        encoded = cv2.imencode(".png", scratched)[1].tobytes()
        inspection = inspector.inspect(encoded, "image/png", lambda _: contextlib.nullcontext(), True)
    rgb = cv2.cvtColor(scratched, cv2.COLOR_BGR2RGB)
    assert inspection.heat_map is not None
    heat_map = picture.overlay(rgb, inspection.heat_map, inspection.regions)
    gap = np.full((_SIDE, 8, 3), 255, np.uint8)
    row = cv2.resize(np.hstack([rgb, gap, heat_map]), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    TARGET.write_bytes(picture.encode_png(row))
    print(f"{TARGET}: {inspection.decision}, {inspection.score / inspector.thresholds.fail:.2f} of the fail threshold")


def _write_good_pieces(texture: NDArray[np.uint8], folder: Path) -> None:
    folder.mkdir()
    offsets = range(0, len(texture) - _SIDE, _STRIDE)
    first_taken = len(texture) - 2 * _SIDE  # pieces that begin beyond it in both directions overlap the corner
    for top, left in itertools.product(offsets, offsets):
        if top <= first_taken or left <= first_taken:
            cv2.imwrite(str(folder / f"{top:03}-{left:03}.png"), texture[top : top + _SIDE, left : left + _SIDE])


def _with_scratch(piece: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The piece with a fine curved line across it, lighter than the stones."""
    scratched = piece.copy()
    curve = np.array([[40, 110], [60, 92], [85, 81], [120, 65]], np.int32)
    cv2.polylines(scratched, [curve], isClosed=False, color=(225, 228, 230), thickness=2, lineType=cv2.LINE_AA)
    return scratched


if __name__ == "__main__":
    main()
