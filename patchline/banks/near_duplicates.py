"""Finds images that show the same picture: saved again, resized, or taken again with a small shift.

Good parts look alike, so the likeness of two images says little. What counts is what sets an image apart from the
others: its difference from their mean, without the few directions in which many of them vary (place, light). Two images
are near-duplicates if the difference between them is small against that. Candidates come from pictures of 64 pixels,
compared directly and by the magnitudes of their Fourier transforms, which a shift does not change. They are confirmed
at 256 pixels after an alignment to a fraction of a pixel (phase correlation, Kuglin and Hines, 1975).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Detail = NDArray[np.float32]
_SIDE, _MARGIN = 64, 4  # of the pictures that are compared first, in pixels
_ALIGNED_SIDE = 256
_MAX_SHIFT = 0.08  # of the side
_REFINEMENT = 0.2  # pixels of 256 on either side of a shift
_CANDIDATE = 0.5  # correlation of what sets two images apart from the others
_SAME = 0.98  # 1 - their difference, relative to what sets them apart from the others
_SAME_REFINED = 0.995  # the same after a refined alignment
_DOUBTFUL = 0.8  # below it, a refined alignment changes nothing
_MAX_COMMON = 10  # directions in which many images vary
_MANY = (5, 0.05)  # images, and share of them, that a common direction is worth at least
_SAMPLE = 1000  # images that the common directions are computed from
_BLOCK = 1000


def detail(rgb: NDArray[np.uint8]) -> Detail:
    """Return the fine structure of an image in grey, float32 [64, 64], without its brightness and contrast."""
    return _normalise(_fine_structure(_shrink(rgb, 2 * _SIDE)))


def find(
    details: Sequence[Detail], read: Callable[[int], NDArray[np.uint8]], of: int | None = None
) -> list[tuple[int, int]]:
    """Return the pairs of near-duplicates by their numbers.

    Args:
        details: of all images.
        read: returns an image by its number, uint8 [height, width, 3]; called for candidates only.
        of: the number of an image: only pairs with it are looked for.
    """
    if len(details) < 2:
        return []
    residuals, energies = _residuals(np.stack([picture[_CENTRE].ravel() for picture in details]))

    @functools.lru_cache(maxsize=256)
    def shrunk(number: int) -> tuple[Detail, tuple[int, int]]:
        rgb = read(number)
        height, width = rgb.shape[:2]
        return _shrink(rgb, _ALIGNED_SIDE), (min(width, _ALIGNED_SIDE), min(height, _ALIGNED_SIDE))

    pairs = []
    for first, second in _candidates(residuals):
        if of is not None and of not in (first, second):
            continue
        one, other = _same_resolution(shrunk(first), shrunk(second))
        if _are_alike(one, other, float(min(energies[first], energies[second]))):
            pairs.append((first, second))
    return pairs


_CENTRE = (slice(_MARGIN, -_MARGIN), slice(_MARGIN, -_MARGIN))


def _shrink(rgb: NDArray[np.uint8], side: int) -> Detail:
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    interpolation = cv2.INTER_AREA if min(grey.shape) > side else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(grey, (side, side), interpolation=interpolation), np.float32)


def _high_pass(picture: Detail, sigma: float) -> Detail:
    return np.asarray(picture - cv2.GaussianBlur(picture, (0, 0), sigma), np.float32)


def _fine_structure(picture: Detail) -> Detail:
    """The fine structure of a square picture at 64 pixels."""
    side = 2 * _SIDE
    picture = np.asarray(cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA), np.float32)
    return np.asarray(cv2.resize(_high_pass(picture, 8.0), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA))


def _normalise(vectors: Detail, axis: int | None = None) -> Detail:
    length = np.sqrt((vectors**2).sum(axis=axis, keepdims=axis is not None))
    return np.asarray(vectors / np.maximum(length, 1e-6), np.float32)


def _residuals(vectors: Detail) -> tuple[Detail, NDArray[np.float32]]:
    """What sets each image apart from the others, of length 1, and its energy relative to that of the image."""
    apart = _normalise(vectors, axis=1)
    apart = apart - apart.mean(axis=0)
    energies = (apart**2).sum(axis=1)
    apart = _normalise(apart, axis=1)
    sample = apart[:: -(-len(apart) // _SAMPLE)]
    _, lengths, directions = np.linalg.svd(sample, full_matrices=False)
    common = directions[:_MAX_COMMON][lengths[:_MAX_COMMON] ** 2 > max(_MANY[0], _MANY[1] * len(sample))]
    apart = apart - (apart @ common.T) @ common
    return _normalise(apart, axis=1), np.maximum(energies * (apart**2).sum(axis=1), 1e-9)


def _candidates(residuals: Detail) -> list[tuple[int, int]]:
    spectra = _spectra(residuals)
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(residuals), _BLOCK):
        rows = slice(start, start + _BLOCK)
        alike = np.maximum(residuals[rows] @ residuals.T, spectra[rows] @ spectra.T) > _CANDIDATE
        first, second = np.nonzero(alike)
        pairs += [(int(one) + start, int(other)) for one, other in zip(first, second, strict=True)]
    return [(first, second) for first, second in pairs if first < second]


def _spectra(residuals: Detail) -> Detail:
    """The magnitudes of the Fourier transform of each residual, as differences from their mean, of length 1."""
    side = _SIDE - 2 * _MARGIN
    window = cv2.createHanningWindow((side, side), cv2.CV_32F)
    spectra = np.sqrt(np.abs(np.fft.rfft2(residuals.reshape(-1, side, side) * window))).astype(np.float32)
    spectra = spectra.reshape(len(residuals), -1)
    return _normalise(spectra - spectra.mean(axis=0), axis=1)


def _same_resolution(*images: tuple[Detail, tuple[int, int]]) -> list[Detail]:
    """Two pictures of 256 pixels with no more detail than the original with fewer pixels has."""
    size = (min(width for _, (width, _) in images), min(height for _, (_, height) in images))
    small = [cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture, _ in images]
    side = (_ALIGNED_SIDE, _ALIGNED_SIDE)
    return [np.asarray(cv2.resize(picture, side, interpolation=cv2.INTER_CUBIC), np.float32) for picture in small]


def _are_alike(first: Detail, second: Detail, distinct: float) -> bool:
    """Compare the fine structure of two pictures of 256 pixels, as they are and after a shift.

    A better alignment leaves less of what sets parts apart that lie differently, so it has to show more.
    """
    window = cv2.createHanningWindow((_ALIGNED_SIDE, _ALIGNED_SIDE), cv2.CV_32F)
    shift, _ = cv2.phaseCorrelate(_high_pass(second, 6.0), _high_pass(first, 6.0), window)
    shifts = {(0.0, 0.0), shift} if max(map(abs, shift)) < _MAX_SHIFT * _ALIGNED_SIDE else {(0.0, 0.0)}
    likeness = max(1 - (1 - _correlation(first, second, *each)) / distinct for each in shifts)
    if likeness > _SAME or likeness < _DOUBTFUL or shift not in shifts:
        return likeness > _SAME
    return 1 - (1 - _refined_correlation(first, second, *shift)) / distinct > _SAME_REFINED


def _refined_correlation(first: Detail, second: Detail, dx: float, dy: float) -> float:
    """The correlation at the best shift near a shift that phase correlation found, which prefers whole pixels.

    Along each axis, the correlation is taken as a parabola through three shifts.
    """
    middle, step = _correlation(first, second, dx, dy), _REFINEMENT
    offsets = []
    for x, y in ((step, 0.0), (0.0, step)):
        before, after = (_correlation(first, second, dx + sign * x, dy + sign * y) for sign in (-1, 1))
        curvature = before - 2 * middle + after
        offsets.append(float(np.clip(step * (before - after) / (2 * curvature), -1, 1)) if curvature < 0 else 0.0)
    return max(middle, _correlation(first, second, dx + offsets[0], dy + offsets[1]))


def _correlation(first: Detail, second: Detail, dx: float, dy: float) -> float:
    """The correlation of the fine structure of two pictures, the second one shifted, without the margins."""
    matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    shifted = cv2.warpAffine(second, matrix, second.shape, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    margin = _MARGIN + math.ceil(max(abs(dx), abs(dy)) * _SIDE / _ALIGNED_SIDE)
    inside = (slice(margin, -margin), slice(margin, -margin))
    structures = [_fine_structure(picture)[inside] for picture in (first, np.asarray(shifted, np.float32))]
    one, other = (_normalise(structure - structure.mean()) for structure in structures)
    return float((one * other).sum())
