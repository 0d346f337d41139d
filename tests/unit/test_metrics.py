import os

import cv2
import numpy as np
import pytest

from patchline.evaluation import evaluate, metrics
from patchline.inspection import picture, score


def slow_aupro(heat_maps, masks, limit=0.3):
    """AUPRO by its definition: every threshold and every region, one by one."""
    normal = np.concatenate([heat_map[~mask] for heat_map, mask in zip(heat_maps, masks, strict=True)])
    rates, overlaps = [], []
    for threshold in np.unique(np.concatenate([heat_map.ravel() for heat_map in heat_maps]))[::-1]:
        shares = []
        for heat_map, mask in zip(heat_maps, masks, strict=True):
            count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
            shares += [(heat_map[labels == label] > threshold).mean() for label in range(1, count)]
        rates.append((normal > threshold).mean())
        overlaps.append(np.mean(shares))
    rates, overlaps = np.array(rates), np.array(overlaps)
    grid = np.linspace(0, limit, 301)
    return np.trapezoid(np.interp(grid, rates, overlaps), grid) / limit


def test_aupro_agrees_with_its_definition():
    rng = np.random.default_rng(0)
    heat_maps, masks = [], []
    for _ in range(4):
        mask = np.zeros((40, 40), bool)
        mask[5:12, 5:12] = mask[25:30, 8:33] = True
        heat_maps.append((rng.random((40, 40)) + 0.5 * mask).astype(np.float32))
        masks.append(mask)
    assert metrics.aupro(heat_maps, masks) == pytest.approx(slow_aupro(heat_maps, masks), abs=0.005)


def test_the_aupro_of_a_perfect_map_is_one_and_of_noise_that_of_chance():
    mask = np.zeros((50, 50), bool)
    mask[10:20, 10:20] = True
    assert metrics.aupro([mask.astype(np.float32)], [mask]) == pytest.approx(1.0)
    noise = np.random.default_rng(0).random((50, 50)).astype(np.float32)
    assert metrics.aupro([noise], [mask]) == pytest.approx(0.15, abs=0.06)


def test_auroc_is_the_probability_that_a_defect_has_a_higher_score():
    assert metrics.auroc(np.array([1, 2, 3], np.float32), np.array([2.5, 4], np.float32)) == pytest.approx(5 / 6)


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


def test_a_mask_whose_name_is_not_utf8_is_read(tmp_path):
    mask = np.zeros((8, 8), np.uint8)
    mask[2, 3] = 255
    truth = tmp_path / "ground_truth" / "scratch"
    truth.mkdir(parents=True)
    (truth / os.fsdecode(b"\xff_mask.png")).write_bytes(picture.encode_png(np.dstack([mask] * 3)))
    image = tmp_path / "test" / "scratch" / os.fsdecode(b"\xff.png")
    assert np.array_equal(evaluate._read_mask(tmp_path, "scratch", image, (8, 8)), mask > 0)
