"""Patch distances -> image scores, heat map, regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from patchline.inspection.preprocess import Window
from patchline.protocol.messages import Region, Scores

TOP_PATCHES = 10  # the reference's instance_auroc_topk10
_REGION_MAP_SIDE = 512  # pixels, the largest side of the map in which regions are found


def image_scores(distances: NDArray[np.float32]) -> Scores:
    """Score an image as the reference application does.

    Args:
        distances: float32 [patches], the squared L2 distance of each patch to its nearest neighbour in the memory bank,
            or only the `TOP_PATCHES` largest distances.

    Returns:
        The largest distance, and the mean of the 10 largest distances, or of all if there are fewer.
    """
    largest = np.partition(distances, -min(TOP_PATCHES, distances.size))[-TOP_PATCHES:]
    return Scores(max=float(largest.max()), topk10=float(largest.mean(dtype=np.float64)))


def decisive_score(scores: Scores, kind: Literal["topk10", "max"]) -> float:
    """The score that decides, by the `score` of the category."""
    return scores.topk10 if kind == "topk10" else scores.max


@dataclass(frozen=True)
class HeatMap:
    """The distances of the patches of an image in fail thresholds, and their place in it. Scaled only to be shown.

    Attributes:
        patches: float32 [rows, columns] of the grid, 1.0 is the fail threshold.
        image_shape: height and width of the captured image in pixels.
        window: rows and columns of the captured image that were inspected.
    """

    patches: NDArray[np.float32]
    image_shape: tuple[int, int]
    window: tuple[slice, slice]

    def interpolate(self, shape: tuple[int, int]) -> NDArray[np.float32]:
        """The map of the window at another size: float32 [height, width]."""
        height, width = shape
        return np.asarray(cv2.resize(self.patches, (width, height), interpolation=cv2.INTER_LINEAR))

    def draw(self, shape: tuple[int, int]) -> NDArray[np.float32]:
        """The map of the captured image when it is shown with a height and width: float32, 0 outside of the window."""
        scales = [side / captured for side, captured in zip(shape, self.image_shape, strict=True)]
        rows, columns = (
            slice(round(part.start * scale), round(part.stop * scale))
            for part, scale in zip(self.window, scales, strict=True)
        )
        drawn = np.zeros(shape, np.float32)
        if rows.stop > rows.start and columns.stop > columns.start:  # a narrow image may have no pixel left inside
            drawn[rows, columns] = self.interpolate((rows.stop - rows.start, columns.stop - columns.start))
        return drawn


def heat_map(
    distances: NDArray[np.float32],
    grid: tuple[int, int],
    image_shape: tuple[int, int],
    window: Window,
    threshold: float,
) -> HeatMap:
    """The heat map of an image.

    Args:
        distances: float32 [patches], row by row of the grid.
        grid: rows and columns of patches.
        image_shape: height and width of the captured image in pixels.
        window: the inspected part of the captured image.
        threshold: the fail threshold, in the unit of `distances`.
    """
    return HeatMap(distances.reshape(grid) / np.float32(threshold), image_shape, window.slices())


def regions(heat_map: HeatMap, min_pixels: int) -> tuple[Region, ...]:
    """The bounding boxes of 8-connected parts of the interpolated map above 1.0, hottest first.

    They are found in a map of bounded size, so that the cost does not grow with the image. If the window is larger, the
    edges of a box are exact to a pixel of that map.

    Args:
        heat_map: of the image.
        min_pixels: smaller regions are dropped; in pixels of the captured image, as the boxes are.
    """
    shape = tuple(part.stop - part.start for part in heat_map.window)
    small = [_bounded_side(side, patches) for side, patches in zip(shape, heat_map.patches.shape, strict=True)]
    values = heat_map.interpolate((small[0], small[1]))
    scales = (shape[0] / small[0], shape[1] / small[1])
    count, labels, stats, _ = cv2.connectedComponentsWithStats((values > 1.0).view(np.uint8), connectivity=8)
    boxes = []
    for label in range(1, count):
        x, y, width, height, area = (int(value) for value in stats[label])
        if area * scales[0] * scales[1] >= min_pixels:
            box = (slice(y, y + height), slice(x, x + width))
            hottest = float(values[box][labels[box] == label].max())
            boxes.append(_region(box, scales, heat_map.window, hottest))
    return tuple(sorted(boxes, key=lambda region: -region.score))


def _bounded_side(side: int, patches: int) -> int:
    """The side of the map in which regions are found: that of the window, or a bounded one if the window is larger.

    An odd multiple of the number of patches has a pixel at the centre of each patch, so no hot patch is missed.
    """
    multiple = max(3, _REGION_MAP_SIDE // patches)
    return min(side, patches * (multiple - 1 + multiple % 2))


def _region(
    box: tuple[slice, slice], scales: tuple[float, float], window: tuple[slice, slice], hottest: float
) -> Region:
    """A box of the bounded map as a region in pixels of the captured image."""
    (top, bottom), (left, right) = (
        (origin.start + round(part.start * scale), origin.start + round(part.stop * scale))
        for part, scale, origin in zip(box, scales, window, strict=True)
    )
    return Region(x=left, y=top, width=right - left, height=bottom - top, score=hottest)
