import os

import cv2
import numpy as np
import pytest

from patchline.inspection import picture, score


def map_of(values):
    """A heat map with a patch for each pixel of the captured image."""
    return score.HeatMap(values, values.shape, (slice(0, values.shape[0]), slice(0, values.shape[1])))


def test_an_overlay_changes_hot_pixels_only():
    rgb = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    heat_map = np.full((60, 60), 0.4, np.float32)
    assert np.array_equal(picture.overlay(rgb, map_of(heat_map), ()), rgb)
    heat_map[20:40, 20:40] = 1.8
    overlay = picture.overlay(rgb, map_of(heat_map), ())
    assert np.array_equal(overlay[:15], rgb[:15])
    assert (overlay[25:35, 25:35] != rgb[25:35, 25:35]).any(axis=2).mean() > 0.9


@pytest.mark.parametrize("max_side", [None, 40])
def test_an_overlay_of_a_grey_image_is_that_of_its_three_equal_channels(max_side):
    grey = np.random.default_rng(0).integers(0, 255, (60, 90), dtype=np.uint8)
    heat_map = map_of(np.linspace(0, 2, grey.size, dtype=np.float32).reshape(grey.shape))
    regions = score.regions(heat_map, 16)
    expected = picture.overlay(np.dstack([grey] * 3), heat_map, regions, max_side)
    assert np.array_equal(picture.overlay(grey, heat_map, regions, max_side), expected)


@pytest.mark.parametrize(("side", "expected"), [(300, 300), (2048, 512)])
def test_a_thumbnail_is_small_and_marks_the_defect(side, expected):
    grey, heat_map = np.full((side, side, 3), 128, np.uint8), np.zeros((side, side), np.float32)
    defect = slice(side // 4, side // 2)
    heat_map[defect, defect] = 1.8
    (region,) = score.regions(map_of(heat_map), 16)
    jpeg = picture.thumbnail(grey, map_of(heat_map), (region,))
    assert len(jpeg) < 50_000
    thumbnail = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert thumbnail.shape == (expected, expected, 3)
    changed = (np.abs(thumbnail.astype(int) - 128) > 20).any(axis=2)
    inside = slice(expected // 4 + 3, expected // 2 - 3)
    assert changed[inside, inside].all()
    assert not changed[: expected // 4 - 8].any()
    assert not changed[:, expected // 2 + 8 :].any()


@pytest.mark.parametrize("shape", [(16, 20_000), (20_000, 16)])
def test_the_thumbnail_of_a_long_and_narrow_image_is_one_pixel_wide(shape):
    jpeg = picture.thumbnail(np.zeros((*shape, 3), np.uint8), map_of(np.full(shape, 1.5, np.float32)), ())
    assert min(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape[:2]) == 1


def test_a_picture_whose_name_is_not_utf8_is_captioned():
    tile = picture.Tile(np.zeros((8, 8, 3), np.uint8), title=os.fsdecode(b"\xff.png"), subtitle="ä")
    caption = picture.contact_sheet([tile])[picture._TILE_SIDE :]
    assert caption.min() < 128, "it is written"
