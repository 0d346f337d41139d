"""Is a camera set up well? Some frames of it, and what they say of exposure, sharpness and time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from patchline import config
from patchline.camera import pixels
from patchline.camera.base import Camera, CameraError, CameraLostError
from patchline.inspection import decode
from patchline.protocol.errors import SetupError, Unusable

_FRAMES = 10
_BINS = 16
_STEP = 256 // _BINS
_BAR = 40
_MAX_CLIPPED = 0.01
_MAX_BLACK = 0.5


@dataclass(frozen=True)
class Report:
    """What the frames of a camera say.

    Attributes:
        width: in pixels.
        height: in pixels.
        frames_ms: from trigger to frame, of each frame that came.
        failures: why the others did not come.
        histogram: shares of pixels, in 16 steps of brightness from black to white.
        black: share of pixels that are 0.
        white: share of pixels that are the greatest value.
        sharpness: variance of the Laplacian, of the grey picture. Compare it while you turn the lens.
        triggered_at: when the last image was triggered, by the wall clock.
        image: the last image, and its content type.
    """

    width: int
    height: int
    frames_ms: tuple[float, ...]
    failures: tuple[str, ...]
    histogram: tuple[float, ...]
    black: float
    white: float
    sharpness: float
    triggered_at: datetime
    image: tuple[bytes, str] = field(repr=False)

    def lines(self) -> list[str]:
        """Return the report for people."""
        largest = max(self.histogram)
        bars = [
            f"  {step * _STEP:3} to {(step + 1) * _STEP - 1:3}  {share:6.1%} {'#' * round(share / largest * _BAR)}"
            for step, share in enumerate(self.histogram)
        ]
        fastest, median, slowest = min(self.frames_ms), statistics.median(self.frames_ms), max(self.frames_ms)
        times = f"{fastest:.1f} to {slowest:.1f} ms, median {median:.1f}"
        return [
            f"image: {self.width} x {self.height} pixels, {len(self.image[0])} bytes, {self.image[1]}",
            f"frames: {len(self.frames_ms)} of {_FRAMES} triggers, {times} from the trigger",
            f"the last one was triggered at {self.triggered_at.isoformat(' ', 'milliseconds')}",
            *(f"  no frame: {failure}" for failure in self.failures),
            "brightness, as the worker sees it:",
            *bars,
            f"white: {self.white:.2%}, black: {self.black:.2%} of the pixels{self._advice()}",
            f"sharpness: {self.sharpness:.1f} (turn the lens until it is greatest)",
        ]

    def _advice(self) -> str:
        is_dark, is_bright = self.black > _MAX_BLACK, self.white > _MAX_CLIPPED
        if is_dark and is_bright:
            return ": most is black, and some is white; light the part evenly, and shield the camera from reflections"
        if is_bright:
            return ": overexposed; shorten the exposure or lower the gain"
        return ": underexposed; lengthen the exposure or add light" if is_dark else ""


def check(
    camera: Camera,
    rules: config.CameraRules,
    category: config.Category,
    limits: config.Images,
    clock: Callable[[], float] = time.monotonic,
) -> Report:
    """Take some frames, and look at the last one as a worker would.

    Raises:
        CameraError: the camera cannot be opened, gave no frame, or one that does not fit the category or cannot be
            decoded.
    """
    times, failures, frame, triggered_at = [], [], None, datetime.now()
    try:
        camera.open()
        for _ in range(_FRAMES):
            camera.arm()
            started, now = clock(), datetime.now()
            try:
                camera.trigger()
                frame, triggered_at = camera.grab(rules.frame_timeout_ms / 1000), now
                times.append((clock() - started) * 1000)
            except CameraLostError:
                raise
            except CameraError as error:
                failures.append(str(error))
    finally:
        camera.close()
    if frame is None:
        raise CameraError(f"none of {_FRAMES} triggers gave a frame: {failures[-1]}")
    image = pixels.encode(frame, category.depth, rules.encoding, rules.jpeg_quality)
    try:
        rgb = decode.decode(*image, limits, category.depth)
    except Unusable as error:
        raise CameraError(f"a worker cannot judge its last image: {error.detail}") from error
    return Report(rgb.shape[1], rgb.shape[0], tuple(times), tuple(failures), *_looks(rgb), triggered_at, image)


def save(report: Report, folder: Path) -> Path:
    """Write the image into a folder. Return its path.

    Raises:
        SetupError: the folder cannot be written.
    """
    suffixes = {"image/png": ".png", "image/jpeg": ".jpg", "image/x-portable-graymap": ".pgm"}
    path = folder / f"camera{suffixes.get(report.image[1], '.img')}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(report.image[0])
    except OSError as error:
        raise SetupError(f"--out {folder}: cannot be written ({error.strerror}); name a folder") from error
    return path


def _looks(rgb: NDArray[np.uint8]) -> tuple[tuple[float, ...], float, float, float]:
    """Return histogram, shares of black and white, and sharpness."""
    grey: NDArray[Any] = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY))
    counts = np.bincount(grey.ravel() // _STEP, minlength=_BINS)
    sharpness = float(cv2.Laplacian(grey, cv2.CV_64F).var())
    histogram = tuple(float(share) for share in counts / grey.size)
    brightest = rgb.max(axis=2)
    return histogram, float((brightest == 0).mean()), float((brightest == 255).mean()), sharpness
