"""The good patch that is nearest to the hottest patch of an image, in its own picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from patchline.banks.row_origins import RowOrigins
from patchline.inspection import picture, preprocess
from patchline.inspection.inspector import Inspector, untimed
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

    def compare(self, path: Path) -> Pair:
        """Draw an image that was inspected before, and its nearest good patch."""
        content_type = image_files.content_type(path)
        inspection = self.inspector.inspect(path.read_bytes(), content_type, untimed, with_heat_map=True)
        if inspection.image is None or inspection.heat_map is None:
            return Pair((), "has no heat map")
        drawn = picture.overlay(inspection.image, inspection.heat_map, inspection.regions, _SIDE)
        if self.origins is None:
            return Pair((drawn,), None)
        hottest = int(inspection.heat_map.patches.argmax())
        row = int(self.inspector.bank.search.nearest(self._features(inspection.image)[hottest][None])[1][0])
        self._draw_box(drawn, hottest)
        return self._with_origin(drawn, self.origins, row)

    def _with_origin(self, drawn: picture.Picture, origins: RowOrigins, row: int) -> Pair:
        """Add the good picture that a row of the bank came from."""
        path, patch = origins.paths[origins.image[row]], int(origins.patch[row])
        try:
            good = self.inspector.decode(path.read_bytes(), image_files.content_type(path))
        except (OSError, Unusable):
            return Pair((drawn,), f"the nearest good patch came from {path.name}, which cannot be read any more")
        feature, fitted = self._features(good)[patch], self.inspector.bank.search.features[row]
        if np.linalg.norm(feature - fitted) > _TOLERANCE * np.linalg.norm(fitted):
            return Pair((drawn,), f"the nearest good patch came from {path.name}, which has changed since the fit")
        shown = picture.shrink(good, _SIDE)
        self._draw_box(shown, patch)
        return Pair((drawn, shown), f"nearest good patch: {path.name}")

    def _features(self, rgb: picture.Picture) -> NDArray[np.float32]:
        category = self.inspector.category
        prepared = preprocess.prepare(rgb, category.resize, category.imagesize)
        return np.asarray(self.inspector.backbone.extract(prepared[None])[0])

    def _draw_box(self, shown: picture.Picture, patch: int) -> None:
        """Draw the outline of a patch into a picture of the whole image, of any size."""
        category, (rows, columns) = self.inspector.category, self.inspector.backbone.grid
        window = preprocess.crop_window((shown.shape[0], shown.shape[1]), category.resize, category.imagesize)
        row, column = divmod(patch, columns)
        left, right = (round(window.x + (column + step) * window.width / columns) for step in (0, 1))
        top, bottom = (round(window.y + (row + step) * window.height / rows) for step in (0, 1))
        cv2.rectangle(shown, (left - 1, top - 1), (right, bottom), _GREEN, 2)
