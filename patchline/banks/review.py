"""Held-out images that stand out: named, drawn on a contact sheet, and refused until a person has decided."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchline import config
from patchline.banks import bit_depth, outliers
from patchline.banks.held_out import HeldOut
from patchline.banks.recipe import Recipe
from patchline.inspection import picture, preprocess, score
from patchline.protocol.errors import OutliersError

Distances = Sequence[NDArray[np.float32]]
_SHOWN = 24  # images on a sheet
_NAMED = 10  # images in an error text
_TILE_SIDE = 512  # pixels; a larger image is made smaller before its heat map is drawn


@dataclass(frozen=True)
class Reviewed:
    """A held-out image, compared with the others.

    Attributes:
        name: its path relative to the folder of good images.
        score: its held-out score, divided by the highest of the images that are no outliers.
        p_value: see `outliers.p_values`.
        verdict: `outlier`, `accepted` (an outlier that a person has accepted), or empty.
    """

    name: str
    score: float
    p_value: float
    verdict: str


def unaccepted_outliers(recipe: Recipe, held_out: HeldOut) -> list[int]:
    """The numbers of the images that stand out and are not accepted, highest score first."""
    suspects = outliers.suspects(held_out.image_scores(recipe.category.score))
    return [int(row) for row in suspects if held_out.names[row] not in recipe.choices.accepted]


def require_no_outliers(recipe: Recipe, held_out: HeldOut, distances: Distances) -> None:
    """Check that every image that stands out is accepted.

    Args:
        recipe: of the images.
        held_out: the images, each judged by the others.
        distances: float32 [patches] for each image, the squared L2 distances of all its patches.

    Raises:
        OutliersError: some are not. They are named, and drawn on a contact sheet.
    """
    if not unaccepted_outliers(recipe, held_out):
        return
    reviewed, sheet = review(recipe, held_out, distances)
    images = [image for image in reviewed if image.verdict == "outlier"]
    named = ", ".join(f"{image.name} ({image.score:.2f})" for image in images[:_NAMED])
    more = f" and {len(images) - _NAMED} more" if len(images) > _NAMED else ""
    names = [shlex.quote(image.name) for image in images[:_NAMED]]
    raise OutliersError(
        f"{len(images)} of {len(reviewed)} images in {recipe.folder} stand out, so no memory bank was written: "
        f"{named}{more}. The number is the score against the other images, 1 is the highest of those that do not stand "
        f"out. Look at {sheet}, and fit again with {' '.join(f'--leave-out {name}' for name in names)} if they do not "
        f"show good parts, or with {' '.join(f'--accept {name}' for name in names)} if they do. If there may be many, "
        "set clean_share of the category"
    )


def review(recipe: Recipe, held_out: HeldOut, distances: Distances) -> tuple[list[Reviewed], Path]:
    """Draw the images with the highest held-out scores on a contact sheet.

    Args:
        recipe: of the images.
        held_out: the images, each judged by the others.
        distances: float32 [patches] for each image, the squared L2 distances of all its patches.

    Returns:
        All images, the highest score first, and the file of the sheet.
    """
    reviewed, tiles = drawn(recipe, held_out, distances)
    return reviewed, write_sheet(recipe.choices.out, recipe.name, tiles)


def drawn(recipe: Recipe, held_out: HeldOut, distances: Distances) -> tuple[list[Reviewed], list[picture.Tile]]:
    """Return what `review` does, with the tiles of the sheet instead of its file: those of the first images."""
    scores = held_out.image_scores(recipe.category.score)
    suspects, p_values = outliers.suspects(scores), outliers.p_values(scores)
    # Images with the same pixels have scores of 0.
    highest = float(np.delete(scores, suspects).max()) or float(scores.max()) or 1.0
    verdicts = {row: "accepted" if held_out.names[row] in recipe.choices.accepted else "outlier" for row in suspects}
    order = np.argsort(-scores, kind="stable")
    reviewed = [
        Reviewed(held_out.names[row], float(scores[row]) / highest, float(p_values[row]), verdicts.get(row, ""))
        for row in order
    ]
    shown = zip(order[:_SHOWN], reviewed, strict=False)
    return reviewed, [_tile(recipe, row, image, distances[row], highest) for row, image in shown]


def write_sheet(out: Path, name: str, tiles: list[picture.Tile]) -> Path:
    """Write the contact sheet of a category into a folder, and return its file."""
    out.mkdir(parents=True, exist_ok=True)
    sheet = out / f"{name}-review.png"
    sheet.write_bytes(picture.encode_png(picture.contact_sheet(tiles)))
    return sheet


def _tile(recipe: Recipe, row: int, image: Reviewed, distances: NDArray[np.float32], highest: float) -> picture.Tile:
    """An image with the heat map that the other images give it; 1.0 of the map is the highest score of the others."""
    path = recipe.paths[row]
    rgb = bit_depth.decode_good(path, recipe.paths, recipe.settings.images, recipe.category)
    return draw_tile(rgb, recipe.category, recipe.model.grid, image, distances, highest)


def draw_tile(
    rgb: NDArray[np.uint8],
    category: config.Category,
    grid: tuple[int, int],
    image: Reviewed,
    distances: NDArray[np.float32],
    highest: float,
) -> picture.Tile:
    """Draw an image with its heat map.

    Args:
        rgb: uint8 [height, width, 3].
        category: of the image.
        grid: rows and columns of its patches.
        image: what is written below.
        distances: float32 [patches], squared.
        highest: the distance that is 1.0 in the heat map.
    """
    shape = (rgb.shape[0], rgb.shape[1])
    window = preprocess.crop_window(shape, category.resize, category.imagesize)
    heat_map = score.heat_map(distances, grid, shape, window, highest)
    regions = score.regions(heat_map, category.min_region_pixels)
    title = image.name if len(image.name) <= 38 else f"...{image.name[-35:]}"
    subtitle = " ".join(part for part in (f"{image.score:.2f}", image.verdict) if part)
    return picture.Tile(picture.overlay(rgb, heat_map, regions, _TILE_SIDE), title, subtitle)
