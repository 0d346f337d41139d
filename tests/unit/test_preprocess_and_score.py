import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchline.inspection import preprocess, score, verdict
from patchline.protocol.errors import Retry
from patchline.protocol.messages import Decision, Thresholds


@pytest.mark.parametrize(
    ("resize", "imagesize"), [(256, 224), (336, 320), (324, 320), (224, 224), (284, 280), (368, 320)]
)
def test_the_crop_is_that_of_the_reference_application(resize, imagesize):
    rgb = np.random.default_rng(0).integers(0, 255, (300, 417, 3), dtype=np.uint8)
    corner = int((resize - imagesize) / 2)
    expected = cv2.resize(rgb, (resize, resize), interpolation=cv2.INTER_AREA)
    expected = expected[corner : corner + imagesize, corner : corner + imagesize]
    prepared = preprocess.prepare(rgb, resize, imagesize)
    assert np.array_equal(prepared, expected)
    assert prepared.flags.c_contiguous


def test_a_black_image_stays_black():
    assert not preprocess.prepare(np.zeros((50, 60, 3), np.uint8), 64, 64).any()


def test_image_scores_are_the_largest_distance_and_the_mean_of_the_ten_largest():
    distances = np.random.default_rng(1).random(784).astype(np.float32)
    scores = score.image_scores(distances)
    assert scores.max == distances.max()
    assert scores.topk10 == pytest.approx(np.sort(distances)[-10:].astype(np.float64).mean(), rel=1e-12)


@given(st.integers(1, 12))
def test_fewer_than_ten_patches_are_all_averaged(count):
    distances = np.arange(1, count + 1, dtype=np.float32)
    assert score.image_scores(distances).topk10 == pytest.approx(np.sort(distances)[-10:].mean())


@pytest.mark.parametrize(("resize", "imagesize"), [(256, 224), (256, 256), (320, 256)])
@pytest.mark.parametrize("patch", [(0, 0), (5, 9), (27, 27)])
def test_a_hot_patch_is_at_its_place_in_the_captured_image(resize, imagesize, patch):
    image_shape, stride = (600, 450), 8
    grid = (imagesize // stride, imagesize // stride)
    distances = np.zeros(grid, np.float32)
    distances[patch] = 5.0
    window = preprocess.crop_window(image_shape, resize, imagesize)
    heat_map = score.heat_map(distances.ravel(), grid, image_shape, window, threshold=2.5)
    assert heat_map.shape == image_shape
    hot = np.argwhere(heat_map > 0.95 * heat_map.max()).mean(axis=0)
    corner = (resize - imagesize) // 2
    centre = [(corner + (index + 0.5) * stride) / resize * side for index, side in zip(patch, image_shape, strict=True)]
    tolerance = [stride / resize * side / 2 for side in image_shape]  # at the rim the map is constant outwards
    assert np.all(np.abs(hot - centre) < tolerance)


def test_the_unit_of_the_heat_map_is_the_threshold():
    window = preprocess.crop_window((100, 100), 64, 64)
    heat_map = score.heat_map(np.full(64, 30.0, np.float32), (8, 8), (100, 100), window, threshold=60.0)
    assert np.allclose(heat_map, 0.5)


def test_the_heat_map_is_zero_outside_of_the_crop():
    window = preprocess.crop_window((512, 512), 256, 128)
    heat_map = score.heat_map(np.full(256, 9.0, np.float32), (16, 16), (512, 512), window, threshold=1.0)
    assert not heat_map[:128].any()
    assert not heat_map[:, 384:].any()
    assert heat_map[128:384, 128:384].min() > 1.0


def test_regions_are_boxes_of_connected_hot_pixels_hottest_first():
    heat_map = np.zeros((100, 100), np.float32)
    heat_map[10:20, 30:50] = 1.5
    heat_map[60:70, 5:9] = 3.0
    heat_map[90, 90] = 9.0  # smaller than min_pixels
    first, second = score.regions(heat_map, min_pixels=4)
    assert (first.x, first.y, first.width, first.height, first.score) == (5, 60, 4, 10, 3.0)
    assert (second.x, second.y, second.width, second.height, second.score) == (30, 10, 20, 10, 1.5)


def test_pixels_at_the_threshold_are_no_region():
    assert score.regions(np.ones((20, 20), np.float32), min_pixels=1) == ()


@pytest.mark.parametrize(
    ("value", "decision"),
    [
        (0.0, Decision.PASS),
        (9.99, Decision.PASS),
        (10.0, Decision.REVIEW),
        (19.99, Decision.REVIEW),
        (20.0, Decision.FAIL),
    ],
)
def test_decisions_at_the_thresholds(value, decision):
    assert verdict.decide(value, Thresholds(review=10.0, fail=20.0)) is decision


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite_is_a_fault_of_the_device(value):
    with pytest.raises(Retry):
        verdict.decide(value, Thresholds(review=10.0, fail=20.0))


def test_thresholds_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match="above the fail threshold"):
        Thresholds(review=2.0, fail=1.0)
