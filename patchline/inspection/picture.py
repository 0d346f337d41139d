"""Pictures for people: heat maps on one fixed scale, and sheets of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from patchline.protocol.messages import Region

Picture = NDArray[np.uint8]
HOTTEST = 2.0  # the end of the colour scale, in thresholds; its middle is the threshold, on every picture alike
_TILE = 256
_CAPTION = 34
_GLANCE = 512
_FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True)
class Tile:
    """A picture of a sheet and two lines about it."""

    picture: Picture
    title: str
    note: str


def overlay(rgb: Picture, heat: NDArray[np.float32], regions: tuple[Region, ...]) -> Picture:
    """A captured image with its heat map, the contour of the threshold and the boxes of its regions.

    Args:
        rgb: uint8 [height, width, 3].
        heat: float32 [height, width], 1.0 is the fail threshold.
        regions: in pixels of `rgb`.

    Returns:
        uint8 [height, width, 3], RGB.
    """
    scaled = cv2.convertScaleAbs(heat, alpha=255 / HOTTEST)
    colours = cv2.cvtColor(cv2.applyColorMap(scaled, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    # A cold part looks as it was captured; colour comes in from half the threshold on.
    weight = 0.6 * np.clip(heat - 0.5, 0.0, 1.0)
    blended = cv2.blendLinear(rgb, colours, 1 - weight, weight)
    contours, _ = cv2.findContours((heat > 1.0).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(blended, contours, -1, (255, 255, 255), 1)
    for region in regions:
        corner = (region.x + region.width - 1, region.y + region.height - 1)
        cv2.rectangle(blended, (region.x, region.y), corner, (255, 0, 0), 1)
    return np.asarray(blended, np.uint8)


def contact_sheet(tiles: list[Tile], columns: int = 6) -> Picture:
    """Tiles in rows, each with its two lines under it: uint8 [height, width, 3], RGB."""
    rows = max(1, math.ceil(len(tiles) / columns))
    page = np.full((rows * (_TILE + _CAPTION), columns * _TILE, 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // columns * (_TILE + _CAPTION), number % columns * _TILE
        page[top : top + _TILE, left : left + _TILE] = _fitted(tile.picture)
        for line, text in enumerate((tile.title, tile.note)):
            place = (left + 4, top + _TILE + 13 + 15 * line)
            cv2.putText(page, text[:38], place, _FONT, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return page


def encode_png(rgb: Picture) -> bytes:
    """The picture as a PNG file."""
    return bytes(cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1])


def thumbnail(rgb: Picture, heat: NDArray[np.float32], regions: tuple[Region, ...]) -> bytes:
    """An `overlay` as a JPEG file of at most 512 pixels a side, for a cache and a glance."""
    scale = min(1.0, _GLANCE / max(heat.shape))
    if scale < 1:  # before it is drawn: a captured image may have millions of pixels
        rgb, heat = _resized(rgb, scale), _resized(heat, scale)
        regions = tuple(_scaled(region, scale) for region in regions)
    drawn = cv2.cvtColor(overlay(rgb, heat, regions), cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, 85])[1])


def _resized(pixels: NDArray[Any], scale: float) -> NDArray[Any]:
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])  # a long, narrow image keeps one pixel
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA))


def _scaled(region: Region, scale: float) -> Region:
    sides = {name: max(1, round(getattr(region, name) * scale)) for name in ("width", "height")}
    return region.model_copy(update={"x": int(region.x * scale), "y": int(region.y * scale), **sides})


def _fitted(picture: Picture) -> Picture:
    """Scaled into a square tile, aspect kept, on grey."""
    height, width = picture.shape[:2]
    scale = (_TILE - 4) / max(height, width)
    small = _resized(picture, scale)
    tile = np.full((_TILE, _TILE, 3), 230, np.uint8)
    top, left = (_TILE - small.shape[0]) // 2, (_TILE - small.shape[1]) // 2
    tile[top : top + small.shape[0], left : left + small.shape[1]] = small
    return tile
