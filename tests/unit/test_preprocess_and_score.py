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
def test_the_crop_is_the_references(resize, imagesize):
    rgb = np.random.default_rng(0).integers(0, 255, (300, 417, 3), dtype=np.uint8)
    corner = int((resize - imagesize) / 2)
    expected = cv2.resize(rgb, (resize, resize), interpolation=cv2.INTER_AREA)
    expected = expected[corner : corner + imagesize, corner : corner + imagesize]
    found = preprocess.prepare(rgb, resize, imagesize)
    assert np.array_equal(found, expected)
    assert found.flags.c_contiguous


def test_a_black_image_stays_black():
    assert not preprocess.prepare(np.zeros((50, 60, 3), np.uint8), 64, 64).any()


def test_image_scores_are_the_max_and_the_mean_of_the_ten_largest():
    distances = np.random.default_rng(1).random(784).astype(np.float32)
    found = score.image_scores(distances)
    assert found.max == distances.max()
    assert found.topk10 == pytest.approx(np.sort(distances)[-10:].astype(np.float64).mean(), rel=1e-12)


@given(st.integers(1, 12))
def test_fewer_than_ten_patches_are_averaged_as_they_are(count):
    distances = np.arange(1, count + 1, dtype=np.float32)
    assert score.image_scores(distances).topk10 == pytest.approx(np.sort(distances)[-10:].mean())


@pytest.mark.parametrize(("resize", "imagesize"), [(256, 224), (256, 256), (320, 256)])
@pytest.mark.parametrize("patch", [(0, 0), (5, 9), (27, 27)])
def test_a_hot_patch_is_drawn_where_the_camera_saw_it(resize, imagesize, patch):
    captured, stride = (600, 450), 8
    grid = (imagesize // stride, imagesize // stride)
    distances = np.zeros(grid, np.float32)
    distances[patch] = 5.0
    seen = preprocess.crop_window(captured, resize, imagesize)
    heat = score.heat_map(distances.ravel(), grid, captured, seen, threshold=2.5)
    assert heat.shape == captured
    hot = np.argwhere(heat > 0.95 * heat.max()).mean(axis=0)
    corner = (resize - imagesize) // 2
    centre = [(corner + (index + 0.5) * stride) / resize * side for index, side in zip(patch, captured, strict=True)]
    reach = [stride / resize * side / 2 for side in captured]  # at the rim the map is flat outwards
    assert np.all(np.abs(hot - centre) < reach)


def test_the_heat_map_has_one_scale_where_one_is_the_threshold():
    seen = preprocess.crop_window((100, 100), 64, 64)
    heat = score.heat_map(np.full(64, 30.0, np.float32), (8, 8), (100, 100), seen, threshold=60.0)
    assert np.allclose(heat, 0.5)


def test_nothing_is_hot_outside_of_the_crop():
    seen = preprocess.crop_window((512, 512), 256, 128)
    heat = score.heat_map(np.full(256, 9.0, np.float32), (16, 16), (512, 512), seen, threshold=1.0)
    assert not heat[:128].any()
    assert not heat[:, 384:].any()
    assert heat[128:384, 128:384].min() > 1.0


def test_regions_are_boxes_of_connected_hot_pixels_hottest_first():
    heat = np.zeros((100, 100), np.float32)
    heat[10:20, 30:50] = 1.5
    heat[60:70, 5:9] = 3.0
    heat[90, 90] = 9.0  # smaller than the least region
    first, second = score.regions(heat, min_pixels=4)
    assert (first.x, first.y, first.width, first.height, first.score) == (5, 60, 4, 10, 3.0)
    assert (second.x, second.y, second.width, second.height, second.score) == (30, 10, 20, 10, 1.5)


def test_the_threshold_itself_is_no_region():
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
def test_a_score_that_is_no_number_is_the_devices_fault(value):
    with pytest.raises(Retry):
        verdict.decide(value, Thresholds(review=10.0, fail=20.0))


def test_thresholds_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match="above the fail threshold"):
        Thresholds(review=2.0, fail=1.0)
