import cv2
import numpy as np
import pytest

from patchline.evaluation import metrics
from patchline.inspection import picture, score


def slow_aupro(heats, masks, limit=0.3):
    """By its definition: every threshold, every region, one by one."""
    normal = np.concatenate([heat[~mask] for heat, mask in zip(heats, masks, strict=True)])
    rates, overlaps = [], []
    for threshold in np.unique(np.concatenate([heat.ravel() for heat in heats]))[::-1]:
        shares = []
        for heat, mask in zip(heats, masks, strict=True):
            count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
            shares += [(heat[labels == label] > threshold).mean() for label in range(1, count)]
        rates.append((normal > threshold).mean())
        overlaps.append(np.mean(shares))
    rates, overlaps = np.array(rates), np.array(overlaps)
    grid = np.linspace(0, limit, 301)
    return np.trapezoid(np.interp(grid, rates, overlaps), grid) / limit


def test_aupro_agrees_with_its_definition():
    rng = np.random.default_rng(0)
    heats, masks = [], []
    for _ in range(4):
        mask = np.zeros((40, 40), bool)
        mask[5:12, 5:12] = mask[25:30, 8:33] = True
        heats.append((rng.random((40, 40)) + 0.5 * mask).astype(np.float32))
        masks.append(mask)
    assert metrics.aupro(heats, masks) == pytest.approx(slow_aupro(heats, masks), abs=0.005)


def test_a_perfect_map_scores_one_and_a_blind_one_like_chance():
    mask = np.zeros((50, 50), bool)
    mask[10:20, 10:20] = True
    assert metrics.aupro([mask.astype(np.float32)], [mask]) == pytest.approx(1.0)
    noise = np.random.default_rng(0).random((50, 50)).astype(np.float32)
    assert metrics.aupro([noise], [mask]) == pytest.approx(0.15, abs=0.06)


def test_auroc_is_the_chance_that_a_defect_scores_higher():
    assert metrics.auroc(np.array([1, 2, 3], np.float32), np.array([2.5, 4], np.float32)) == pytest.approx(5 / 6)


def test_a_cold_part_keeps_its_own_pixels_in_the_overlay():
    rgb = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    heat = np.full((60, 60), 0.4, np.float32)
    assert np.array_equal(picture.overlay(rgb, heat, ()), rgb)
    heat[20:40, 20:40] = 1.8
    drawn = picture.overlay(rgb, heat, ())
    assert np.array_equal(drawn[:15], rgb[:15])
    assert (drawn[25:35, 25:35] != rgb[25:35, 25:35]).any(axis=2).mean() > 0.9


@pytest.mark.parametrize(("side", "expected"), [(300, 300), (2048, 512)])
def test_a_glance_is_small_and_marks_what_the_whole_picture_marks(side, expected):
    grey, heat = np.full((side, side, 3), 128, np.uint8), np.zeros((side, side), np.float32)
    defect = slice(side // 4, side // 2)
    heat[defect, defect] = 1.8
    (found,) = score.regions(heat, 16)
    small = picture.thumbnail(grey, heat, (found,))
    assert len(small) < 50_000
    shown = cv2.imdecode(np.frombuffer(small, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert shown.shape == (expected, expected, 3)
    changed = (np.abs(shown.astype(int) - 128) > 20).any(axis=2)
    inside = slice(expected // 4 + 3, expected // 2 - 3)
    assert changed[inside, inside].all()
    assert not changed[: expected // 4 - 8].any()
    assert not changed[:, expected // 2 + 8 :].any()


@pytest.mark.parametrize("shape", [(16, 20_000), (20_000, 16)])
def test_a_long_and_narrow_image_that_fails_does_not_end_its_lane(shape):
    shown = picture.thumbnail(np.zeros((*shape, 3), np.uint8), np.full(shape, 1.5, np.float32), ())
    assert min(cv2.imdecode(np.frombuffer(shown, np.uint8), cv2.IMREAD_COLOR).shape[:2]) == 1
