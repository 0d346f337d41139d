"""Grey or RGB pixels -> the input of the backbone. Fitting and serving call the same function."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Window:
    """The inspected part of a captured image, in pixels of that image.

    Its edges are real numbers, because the image is cropped after resizing.
    """

    x: float
    y: float
    width: float
    height: float

    def slices(self) -> tuple[slice, slice]:
        """The rows and columns of the captured image inside the window."""
        return (
            slice(round(self.y), round(self.y + self.height)),
            slice(round(self.x), round(self.x + self.width)),
        )


def prepare(pixels: NDArray[np.uint8], resize: int, imagesize: int) -> NDArray[np.uint8]:
    """Resize to a square and crop its centre, as the reference application does. The aspect ratio changes.

    A grey image gets three equal channels at the end: each channel is resized by itself, so it is the same.

    Args:
        pixels: uint8 [height, width], or [height, width, 3], RGB.
        resize: side of the square in pixels.
        imagesize: side of the centred crop in pixels.

    Returns:
        uint8 [imagesize, imagesize, 3], C-contiguous.
    """
    square = cv2.resize(pixels, (resize, resize), interpolation=cv2.INTER_AREA)
    corner = (resize - imagesize) // 2
    inside = square[corner : corner + imagesize, corner : corner + imagesize]
    if inside.ndim == 2:
        inside = cv2.cvtColor(inside, cv2.COLOR_GRAY2RGB)
    return np.ascontiguousarray(inside, dtype=np.uint8)


def crop_window(image_shape: tuple[int, int], resize: int, imagesize: int) -> Window:
    """The window of the crop of `prepare` in a captured image.

    Args:
        image_shape: height and width of the captured image in pixels.
        resize: side of the square in pixels.
        imagesize: side of the centred crop in pixels.
    """
    height, width = image_shape
    corner = (resize - imagesize) // 2
    return Window(
        x=corner * width / resize,
        y=corner * height / resize,
        width=imagesize * width / resize,
        height=imagesize * height / resize,
    )
