"""The probe of a model: the mean features of one synthetic image.

A model that gets its image in another way (other colours, another normalisation, another layout), or that lacks the 3x3
mean, has another probe. Rounding hardly changes it, because it is made of means.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from patchline.protocol import messages

Normalisation = Literal["none", "only 1/255", "twice", "no mean", "no std", "mean and std of 0 to 1"]
Channels = tuple[float, float, float]  # red, green, blue
_CHANNELS = 64  # at most; evenly spaced ones stand for the rest


class Probe(messages.Frozen):
    """Means of the features of `image`.

    Attributes:
        channels: the mean over all patches, for up to 64 evenly spaced channels.
        places: the mean absolute feature in the top, bottom, left and right edge, one patch wide, and in the top left,
            top right, bottom left and bottom right quarter.
        mistakes: `channels` of the same model with a wrong normalisation. Empty if the model normalises by itself.
    """

    channels: tuple[float, ...]
    places: tuple[float, float, float, float, float, float, float, float]
    mistakes: dict[Normalisation, tuple[float, ...]] = Field(default_factory=dict)

    def distance(self, other: Probe) -> float:
        """The relative L2 distance of another probe, that of channels or places, whichever is larger."""
        return max(relative_distance(self.channels, other.channels), relative_distance(self.places, other.places))


def image(side: int) -> NDArray[np.uint8]:
    """The image of a probe: stripes and blocks that differ by colour and fade towards one corner.

    It is computed in integers, so that every machine has the same pixels.

    Returns:
        uint8 [1, side, side, 3], RGB. No two colours, edges or quarters are alike.
    """
    y, x = np.mgrid[:side, :side].astype(np.int64)
    red = 96 + 2 * _zigzag(3 * x + y, 64)
    green = 32 + _zigzag(x + 2 * y, 96)
    blue = 16 + ((x // 16) ^ (y // 8)) * 37 % 80
    brightness = 4 * side - x - 2 * y  # from 4 parts at the top left to 1 part at the bottom right
    colours: NDArray[np.int64] = np.stack([red, green, blue], axis=-1) * brightness[..., None] // (4 * side)
    return colours[None].astype(np.uint8)


def measure(features: NDArray[np.float32], grid: tuple[int, int]) -> Probe:
    """The probe of the features of `image`, rounded to five digits.

    Args:
        features: float32 [patches, dim].
        grid: rows and columns of patches.
    """
    dim = features.shape[1]
    chosen = np.unique(np.linspace(0, dim - 1, min(_CHANNELS, dim)).astype(int))
    strength = np.abs(features).mean(axis=1, dtype=np.float64).reshape(grid)
    edges = (strength[0], strength[-1], strength[:, 0], strength[:, -1])
    quarters = [part for half in np.array_split(strength, 2) for part in np.array_split(half, 2, axis=1)]
    return Probe(
        channels=_rounded(features[:, chosen].mean(axis=0, dtype=np.float64)),
        places=_rounded([part.mean() for part in (*edges, *quarters)]),
    )


def relative_distance(expected: tuple[float, ...], measured: tuple[float, ...]) -> float:
    """The L2 distance relative to the length of `expected`; infinite if the sizes differ or a number is not finite."""
    if len(expected) != len(measured) or not np.isfinite(measured).all():
        return float("inf")
    return float(np.linalg.norm(np.subtract(measured, expected)) / np.linalg.norm(expected))


def normalisation_mistakes(mean: Channels, std: Channels) -> dict[Normalisation, tuple[Channels, Channels]]:
    """The mean and standard deviation that each mistake amounts to, for pixels from 0 to 255."""
    zeros, ones = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean_twice, std_twice = (_each(lambda m, s: m + m * s, mean, std), _each(lambda m, s: s * s, mean, std))
    small_mean, small_std = (_each(lambda value, _: value / 255, values, ones) for values in (mean, std))
    return {
        "none": (zeros, ones),
        "only 1/255": (zeros, (255.0, 255.0, 255.0)),
        "twice": (mean_twice, std_twice),
        "no mean": (zeros, std),
        "no std": (mean, ones),
        "mean and std of 0 to 1": (small_mean, small_std),
    }


def _each(function: Callable[[float, float], float], first: Channels, second: Channels) -> Channels:
    red, green, blue = map(function, first, second)
    return (red, green, blue)


def _zigzag(values: NDArray[np.int64], height: int) -> NDArray[np.int64]:
    """0 to `height` and back, in steps of one."""
    return np.abs(values % (2 * height) - height)


def _rounded(values: NDArray[np.float64] | list[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{value:.5g}") for value in values)
