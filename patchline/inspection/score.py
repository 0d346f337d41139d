"""Patch distances -> image scores, heat map, regions."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from patchline.inspection.preprocess import Window
from patchline.protocol.messages import Region, Scores

TOP_PATCHES = 10  # the reference's instance_auroc_topk10


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


def heat_map(
    distances: NDArray[np.float32],
    grid: tuple[int, int],
    image_shape: tuple[int, int],
    window: Window,
    threshold: float,
) -> NDArray[np.float32]:
    """Interpolate patch distances over the captured image, in fail thresholds.

    Args:
        distances: float32 [patches], row by row of the grid.
        grid: rows and columns of patches.
        image_shape: height and width of the captured image in pixels.
        window: the inspected part of the captured image.
        threshold: the fail threshold, in the unit of `distances`.

    Returns:
        float32 [height, width], 0 outside of the window.
    """
    rows, columns = window.slices()
    heat_map = np.zeros(image_shape, np.float32)
    size = (columns.stop - columns.start, rows.stop - rows.start)
    heat_map[rows, columns] = cv2.resize(
        distances.reshape(grid) / np.float32(threshold), size, interpolation=cv2.INTER_LINEAR
    )
    return heat_map


def regions(heat_map: NDArray[np.float32], min_pixels: int) -> tuple[Region, ...]:
    """The bounding boxes of 8-connected pixels above 1.0, hottest first.

    Args:
        heat_map: float32 [height, width], 1.0 is the fail threshold.
        min_pixels: smaller regions are dropped.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats((heat_map > 1.0).view(np.uint8), connectivity=8)
    boxes = []
    for label in range(1, count):
        x, y, width, height, area = (int(value) for value in stats[label])
        if area >= min_pixels:
            box = (slice(y, y + height), slice(x, x + width))
            hottest = float(heat_map[box][labels[box] == label].max())
            boxes.append(Region(x=x, y=y, width=width, height=height, score=hottest))
    return tuple(sorted(boxes, key=lambda region: -region.score))
