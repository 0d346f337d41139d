"""The good patch that is nearest to the hottest patch of an image, in its own picture."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from patchline.banks.row_origins import Origin, RowOrigins
from patchline.inspection import picture, preprocess
from patchline.inspection.inspector import Inspection, Inspector, untimed
from patchline.inspection.picture import Box
from patchline.protocol import image_files
from patchline.protocol.errors import Unusable

_SIDE = 400  # pixels, the largest of a picture
_GREEN = (0, 160, 60)
_TOLERANCE = 0.05  # of the features, since another precision may serve them; above, the picture is another one
_NO_ORIGINS = (
    "This memory bank does not say where its patches came from: it was imported, or fitted by an earlier build. "
    "Fit it again to see the nearest good patch."
)


@dataclass(frozen=True)
class Nearest:
    """The hottest patch of an image, and the good patch that is nearest to it.

    Attributes:
        patch: the number of the hottest patch, row by row of the grid.
        times: its distance to the good patch, in fail thresholds; in a trial, which has none, in those of a review.
        origin: what is known of the good picture.
        path: of the good picture; None if the bank does not say it.
        name: of the good picture, below the folder that all good pictures share.
        good_patch: the number of the good patch in its picture.
        good: uint8 [height, width, 3], RGB, the good picture; None unless it was found.
    """

    patch: int
    times: float
    origin: Origin
    path: Path | None = None
    name: str = ""
    good_patch: int = 0
    good: picture.Picture | None = None


@dataclass(frozen=True)
class Pair:
    """An image with its heat map, and the good picture with the nearest patch, if it is still there.

    Attributes:
        pictures: one or two.
        caption: which good picture it is, or why there is none.
    """

    pictures: tuple[picture.Picture, ...]
    caption: str | None


@dataclass(frozen=True)
class Neighbours:
    """Finds and draws the nearest good patches of a category."""

    inspector: Inspector
    origins: RowOrigins | None

    @classmethod
    def load(cls, inspector: Inspector, bank_folder: Path) -> Neighbours:
        """Read where the rows of a bank came from, if the bank says it."""
        origins = RowOrigins.load(bank_folder)
        rows = inspector.bank.manifest.patches
        return cls(inspector, origins if origins is not None and origins.image.size == rows else None)

    @property
    def note(self) -> str:
        """What a reader should know about the bank; may be empty."""
        return _NO_ORIGINS if self.origins is None else ""

    def find(self, inspection: Inspection) -> Nearest | None:
        """Return the good patch that is nearest to the hottest patch of an image; None without a heat map."""
        if inspection.heat_map is None or inspection.patches is None:
            return None
        hottest = int(inspection.heat_map.patches.argmax())
        limits = self.inspector.thresholds
        times = float(inspection.heat_map.patches.flat[hottest]) * (limits.fail / limits.unit)
        if self.origins is None:
            return Nearest(hottest, times, Origin.UNKNOWN)
        row = int(self.inspector.bank.search.nearest(inspection.patches[hottest][None])[1][0])
        path, patch = self.origins.paths[self.origins.image[row]], int(self.origins.patch[row])
        origin, good = self._read(path, patch, row)
        return Nearest(hottest, times, origin, path, _below(path, self.origins.paths), patch, good)

    def compare(self, path: Path) -> Pair:
        """Draw an image that was inspected before, and its nearest good patch."""
        content_type = image_files.content_type(path)
        inspection = self.inspector.inspect(path.read_bytes(), content_type, untimed, with_heat_map=True)
        nearest = self.find(inspection)
        if inspection.image is None or inspection.heat_map is None or nearest is None:
            return Pair((), "has no heat map")
        drawn = picture.overlay(inspection.image, inspection.heat_map, inspection.regions, _SIDE)
        if nearest.path is None:
            return Pair((drawn,), None)
        self._draw_box(drawn, nearest.patch)
        if nearest.good is None:
            why = "has changed since the fit" if nearest.origin is Origin.CHANGED else "cannot be read any more"
            return Pair((drawn,), f"the nearest good patch came from {nearest.path.name}, which {why}")
        shown = picture.shrink(nearest.good, _SIDE)
        self._draw_box(shown, nearest.good_patch)
        return Pair((drawn, shown), f"nearest good patch: {nearest.path.name}")

    def box(self, shape: tuple[int, ...], patch: int) -> Box:
        """Return the outline of a patch in a picture of the whole image, of any size.

        Args:
            shape: height and width of the picture in pixels, and maybe more.
            patch: the number of the patch, row by row of the grid.
        """
        category, (rows, columns) = self.inspector.category, self.inspector.backbone.grid
        window = preprocess.crop_window((shape[0], shape[1]), category.resize, category.imagesize)
        row, column = divmod(patch, columns)
        left, right = (round(window.x + (column + step) * window.width / columns) for step in (0, 1))
        top, bottom = (round(window.y + (row + step) * window.height / rows) for step in (0, 1))
        return Box(left, top, right - left, bottom - top)

    def _read(self, path: Path, patch: int, row: int) -> tuple[Origin, picture.Picture | None]:
        """Return the good picture that a row of the bank came from, if it still gives that row."""
        try:
            image, content_type = path.read_bytes(), image_files.content_type(path)
            good, features = self.inspector.decode(image, content_type), self.inspector.features(image, content_type)
        except (OSError, Unusable):
            return Origin.UNREADABLE, None
        feature, fitted = features[patch], self.inspector.bank.search.features[row]
        if np.linalg.norm(feature - fitted) > _TOLERANCE * np.linalg.norm(fitted):
            return Origin.CHANGED, None
        return Origin.FOUND, good

    def _draw_box(self, shown: picture.Picture, patch: int) -> None:
        box = self.box(shown.shape, patch)
        corner = (box.x + box.width, box.y + box.height)
        cv2.rectangle(shown, (box.x - 1, box.y - 1), corner, _GREEN, 2)


def _below(path: Path, paths: tuple[Path, ...]) -> str:
    """Return a path below the folder that all paths share."""
    return os.path.relpath(path, os.path.commonpath([other.parent for other in paths]))
