"""RGB array -> the backbone's input. Fitting and serving call the same function, so they cannot disagree."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a captured image that is inspected, in its own pixels: x and y of the corner, width and height.

    The edges are real numbers, because the crop is taken after resizing.
    """

    x: float
    y: float
    width: float
    height: float

    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of the captured image that lie inside."""
        return (
            slice(round(self.y), round(self.y + self.height)),
            slice(round(self.x), round(self.x + self.width)),
        )


def prepare(rgb: NDArray[np.uint8], resize: int, imagesize: int) -> NDArray[np.uint8]:
    """Resize to a square and crop its centre, as the reference application does (aspect is not kept).

    Args:
        rgb: uint8 [height, width, 3].
        resize: side of the square in pixels; area interpolation.
        imagesize: side of the centred crop in pixels.

    Returns:
        uint8 [imagesize, imagesize, 3], C-contiguous.
    """
    square = cv2.resize(rgb, (resize, resize), interpolation=cv2.INTER_AREA)
    corner = (resize - imagesize) // 2
    return np.ascontiguousarray(square[corner : corner + imagesize, corner : corner + imagesize], dtype=np.uint8)


def crop_window(captured: tuple[int, int], resize: int, imagesize: int) -> Window:
    """Where the crop of `prepare` lies in a captured image of `(height, width)` pixels."""
    height, width = captured
    corner = (resize - imagesize) // 2
    return Window(
        x=corner * width / resize,
        y=corner * height / resize,
        width=imagesize * width / resize,
        height=imagesize * height / resize,
    )
