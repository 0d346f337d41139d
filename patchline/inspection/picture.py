"""Pictures for people: heat maps on a fixed colour scale, and contact sheets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from patchline.inspection.score import HeatMap
from patchline.protocol.messages import Region

Picture = NDArray[np.uint8]
_COLOUR_SCALE_END = 2.0  # in fail thresholds; the middle of the scale is the threshold
_TILE_SIDE = 256  # pixels, as the next two
_CAPTION_HEIGHT = 34
_THUMBNAIL_SIDE = 512
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_CLOSE_UP = 5  # sides of the box in a close-up
_CLOSE_UP_SIDE = 320  # pixels


@dataclass(frozen=True)
class Box:
    """A part of a picture, in its pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Tile:
    """A picture of a contact sheet, and the two lines of its caption."""

    picture: Picture
    title: str
    subtitle: str


def overlay(image: Picture, heat_map: HeatMap, regions: tuple[Region, ...], max_side: int | None = None) -> Picture:
    """Draw a heat map over a captured image, with the contours of the threshold and the boxes of the regions.

    Args:
        image: uint8 [height, width], grey, or [height, width, 3], RGB: as captured, or smaller.
        heat_map: of the image.
        regions: in pixels of the captured image.
        max_side: a larger picture is made smaller first, in pixels.

    Returns:
        uint8 [height, width, 3], RGB.
    """
    scale = 1.0 if max_side is None else min(1.0, max_side / max(image.shape[:2]))
    if scale < 1:
        image = _resize(image, scale)
    rgb = image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    values = heat_map.draw((rgb.shape[0], rgb.shape[1]))
    scaled = cv2.convertScaleAbs(values, alpha=255 / _COLOUR_SCALE_END)
    colours = cv2.cvtColor(cv2.applyColorMap(scaled, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    # Below half the threshold, the image stays as captured.
    weight = 0.6 * np.clip(values - 0.5, 0.0, 1.0)
    blended = cv2.blendLinear(rgb, colours, 1 - weight, weight)
    contours, _ = cv2.findContours((values > 1.0).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(blended, contours, -1, (255, 255, 255), 1)
    rows, columns = (shown / captured for shown, captured in zip(values.shape, heat_map.image_shape, strict=True))
    for region in regions:
        left, top = int(region.x * columns), int(region.y * rows)
        right, bottom = (left + max(1, round(region.width * columns)), top + max(1, round(region.height * rows)))
        cv2.rectangle(blended, (left, top), (right - 1, bottom - 1), (255, 0, 0), 1)
    return np.asarray(blended, np.uint8)


def contact_sheet(tiles: list[Tile], columns: int = 6) -> Picture:
    """Draw tiles in rows, each above its caption: uint8 [height, width, 3], RGB."""
    rows = max(1, math.ceil(len(tiles) / columns))
    row_height = _TILE_SIDE + _CAPTION_HEIGHT
    sheet = np.full((rows * row_height, columns * _TILE_SIDE, 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // columns * row_height, number % columns * _TILE_SIDE
        sheet[top : top + _TILE_SIDE, left : left + _TILE_SIDE] = _fit_into_tile(tile.picture)
        for line, text in enumerate((tile.title, tile.subtitle)):
            origin = (left + 4, top + _TILE_SIDE + 13 + 15 * line)
            # The font has ASCII only, and cv2 crashes on a name that is not UTF-8.
            caption = text[:38].encode("ascii", "replace").decode("ascii")
            cv2.putText(sheet, caption, origin, _FONT, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return sheet


def close_up(rgb: Picture, box: Box) -> Picture:
    """Draw the surroundings of a box, enlarged, with its outline.

    Args:
        rgb: uint8 [height, width, 3].
        box: within it.

    Returns:
        uint8 [height, width, 3] with a longer side of 320 pixels: as wide and high as five boxes, if the picture is.
    """
    height, width = rgb.shape[:2]
    left, right = _around(box.x, box.width, width)
    top, bottom = _around(box.y, box.height, height)
    scale = _CLOSE_UP_SIDE / max(right - left, bottom - top)
    shown = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
    enlarged = cv2.resize(rgb[top:bottom, left:right], shown, interpolation=cv2.INTER_CUBIC)
    corners = [(box.x - left, box.y - top), (box.x + box.width - left, box.y + box.height - top)]
    first, last = ((round(x * scale), round(y * scale)) for x, y in corners)
    for colour, thickness in (((0, 0, 0), 4), ((255, 255, 255), 2)):  # seen on every ground
        cv2.rectangle(enlarged, first, last, colour, thickness)
    return np.asarray(enlarged, np.uint8)


def _around(start: int, length: int, side: int) -> tuple[int, int]:
    """Return the begin and end of the surroundings of a box along one side of a picture, within it."""
    whole = min(side, _CLOSE_UP * max(1, length))
    begin = min(max(0, start - (whole - length) // 2), side - whole)
    return begin, begin + whole


def encode_png(rgb: Picture) -> bytes:
    """Encode a picture as a PNG file."""
    return bytes(cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1])


def heat_map_png(rgb: Picture, heat_map: HeatMap, regions: tuple[Region, ...]) -> bytes:
    """Draw an `overlay` with sides of at most 512 pixels, and encode it as a PNG file."""
    return encode_png(overlay(rgb, heat_map, regions, _THUMBNAIL_SIDE))


def thumbnail(rgb: Picture, heat_map: HeatMap, regions: tuple[Region, ...]) -> bytes:
    """Draw an `overlay` with sides of at most 512 pixels, and encode it as a JPEG file."""
    return encode_jpeg(overlay(rgb, heat_map, regions, _THUMBNAIL_SIDE))


def encode_jpeg(rgb: Picture) -> bytes:
    """Encode a picture as a JPEG file."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 85])[1])


def shrink(rgb: Picture, max_side: int) -> Picture:
    """A copy of a picture, made smaller if a side is longer than `max_side` pixels."""
    scale = max_side / max(rgb.shape[:2])
    return _resize(rgb, scale) if scale < 1 else rgb.copy()


def _resize(pixels: NDArray[Any], scale: float) -> NDArray[Any]:
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])  # a narrow image keeps one pixel
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA))


def _fit_into_tile(picture: Picture) -> Picture:
    """Scale a picture into a square grey tile, and keep its aspect ratio."""
    height, width = picture.shape[:2]
    resized = _resize(picture, (_TILE_SIDE - 4) / max(height, width))
    tile = np.full((_TILE_SIDE, _TILE_SIDE, 3), 230, np.uint8)
    top, left = (_TILE_SIDE - resized.shape[0]) // 2, (_TILE_SIDE - resized.shape[1]) // 2
    tile[top : top + resized.shape[0], left : left + resized.shape[1]] = resized
    return tile
