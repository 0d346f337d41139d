import tracemalloc

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


@given(st.integers(16, 900), st.integers(16, 900), st.integers(32, 400), st.integers(0, 3))
def test_a_grey_image_is_prepared_as_its_three_equal_channels(height, width, side, multiple):
    if multiple:  # OpenCV has code of its own for these
        height, width = side * multiple, side * 2
    grey = np.random.default_rng(height).integers(0, 256, (height, width), dtype=np.uint8)
    expected = preprocess.prepare(np.dstack([grey] * 3), side, 32)
    assert np.array_equal(preprocess.prepare(grey, side, 32), expected)


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
    heat_map = score.heat_map(distances.ravel(), grid, image_shape, window, threshold=2.5).draw(image_shape)
    assert heat_map.shape == image_shape
    hot = np.argwhere(heat_map > 0.95 * heat_map.max()).mean(axis=0)
    corner = (resize - imagesize) // 2
    centre = [(corner + (index + 0.5) * stride) / resize * side for index, side in zip(patch, image_shape, strict=True)]
    tolerance = [stride / resize * side / 2 for side in image_shape]  # at the rim the map is constant outwards
    assert np.all(np.abs(hot - centre) < tolerance)


def test_the_unit_of_the_heat_map_is_the_threshold():
    window = preprocess.crop_window((100, 100), 64, 64)
    heat_map = score.heat_map(np.full(64, 30.0, np.float32), (8, 8), (100, 100), window, threshold=60.0).draw(
        (100, 100)
    )
    assert np.allclose(heat_map, 0.5)


def test_the_heat_map_is_zero_outside_of_the_crop():
    window = preprocess.crop_window((512, 512), 256, 128)
    heat_map = score.heat_map(np.full(256, 9.0, np.float32), (16, 16), (512, 512), window, threshold=1.0).draw(
        (512, 512)
    )
    assert not heat_map[:128].any()
    assert not heat_map[:, 384:].any()
    assert heat_map[128:384, 128:384].min() > 1.0


def map_of(values):
    """A heat map with a patch for each pixel of the captured image."""
    return score.HeatMap(values, values.shape, (slice(0, values.shape[0]), slice(0, values.shape[1])))


def test_regions_are_boxes_of_connected_hot_pixels_hottest_first():
    values = np.zeros((100, 100), np.float32)
    values[10:20, 30:50] = 1.5
    values[60:70, 5:9] = 3.0
    values[90, 90] = 9.0  # smaller than min_pixels
    first, second = score.regions(map_of(values), min_pixels=4)
    assert (first.x, first.y, first.width, first.height, first.score) == (5, 60, 4, 10, 3.0)
    assert (second.x, second.y, second.width, second.height, second.score) == (30, 10, 20, 10, 1.5)


def test_pixels_at_the_threshold_are_no_region():
    assert score.regions(map_of(np.ones((20, 20), np.float32)), min_pixels=1) == ()


def heat_map_of_blobs(image_shape, seed):
    """A heat map with 49 hot blobs of four patches and of different heights."""
    distances = np.random.default_rng(seed).uniform(0.1, 0.5, (32, 32)).astype(np.float32)
    heights = np.random.default_rng(seed).permutation(np.linspace(1.2, 3.0, 49, dtype=np.float32)).reshape(7, 7)
    for row, column in np.ndindex(7, 7):
        distances[4 * row + 1 : 4 * row + 3, 4 * column + 2 : 4 * column + 4] = heights[row, column]
    window = preprocess.crop_window(image_shape, 288, 256)
    return score.heat_map(distances.ravel(), (32, 32), image_shape, window, threshold=1.0)


def regions_of_every_pixel(heat_map, min_pixels):
    """The regions by their definition, in the map of the captured image: memory and time grow with the image."""
    values = heat_map.draw(heat_map.image_shape)
    count, labels, stats, _ = cv2.connectedComponentsWithStats((values > 1.0).view(np.uint8), connectivity=8)
    kept = [label for label in range(1, count) if stats[label, 4] >= min_pixels]
    boxes = [(*stats[label, :4].tolist(), float(values[labels == label].max())) for label in kept]
    return sorted(boxes, key=lambda box: -box[4])


def as_tuples(regions):
    return [(region.x, region.y, region.width, region.height, region.score) for region in regions]


@pytest.mark.parametrize("image_shape", [(300, 300), (480, 200), (64, 500)])
def test_the_regions_of_a_small_image_are_those_of_every_pixel(image_shape):
    for seed in range(5):
        heat_map = heat_map_of_blobs(image_shape, seed)
        found, expected = as_tuples(score.regions(heat_map, 16)), regions_of_every_pixel(heat_map, 16)
        assert found == expected
        assert len(found) == 49


@pytest.mark.parametrize("image_shape", [(1000, 1400), (3000, 900), (2400, 200)])
def test_the_boxes_of_a_large_image_are_exact_to_a_fifteenth_of_a_patch(image_shape):
    for seed in range(3):
        heat_map = heat_map_of_blobs(image_shape, seed)
        found, expected = as_tuples(score.regions(heat_map, 1)), regions_of_every_pixel(heat_map, 1)
        assert len(found) == len(expected)
        step = [max(1.0, side * 256 / 288 / 480) for side in (image_shape[1], image_shape[0])]
        for box, exact in zip(found, expected, strict=True):
            assert abs(box[0] - exact[0]) <= step[0] + 1
            assert abs(box[1] - exact[1]) <= step[1] + 1
            assert abs(box[0] + box[2] - exact[0] - exact[2]) <= step[0] + 1
            assert abs(box[1] + box[3] - exact[1] - exact[3]) <= step[1] + 1
            assert box[4] == pytest.approx(exact[4], abs=0.02)


@pytest.mark.parametrize("grid", [(28, 28), (32, 32), (40, 40), (256, 256)])
def test_a_single_hot_patch_of_a_large_image_is_a_region_with_its_score(grid):
    distances = np.zeros(grid, np.float32)
    distances[5, 7] = 1.001
    window = preprocess.crop_window((5000, 7000), 256, 256)
    heat_map = score.heat_map(distances.ravel(), grid, (5000, 7000), window, threshold=1.0)
    (region,) = score.regions(heat_map, min_pixels=16)
    assert region.score == pytest.approx(1.001, abs=1e-6)
    assert region.y < 5.5 / grid[0] * 5000 < region.y + region.height
    assert region.x < 7.5 / grid[1] * 7000 < region.x + region.width


def test_a_region_smaller_than_the_minimum_in_captured_pixels_is_dropped():
    distances = np.zeros((32, 32), np.float32)
    distances[5, 7] = 1.5
    window = preprocess.crop_window((3000, 3000), 256, 256)
    heat_map = score.heat_map(distances.ravel(), (32, 32), (3000, 3000), window, threshold=1.0)
    area = sum(np.count_nonzero(row > 1.0) for row in heat_map.draw((3000, 3000)))
    assert len(score.regions(heat_map, min_pixels=int(area * 0.8))) == 1
    assert score.regions(heat_map, min_pixels=int(area * 1.2)) == ()


def test_the_heat_map_of_a_large_image_takes_no_memory_for_its_pixels():
    tracemalloc.start()
    score.regions(heat_map_of_blobs((7000, 7000), 0), 16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000


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
    assert verdict.decide(value, 0.0, Thresholds(review=10.0, fail=20.0)) is decision


@pytest.mark.parametrize(
    ("value", "hottest", "rule", "decision"),
    [
        (9.0, 29.0, "review", Decision.PASS),
        (9.0, 30.0, "review", Decision.REVIEW),
        (9.0, 30.0, "fail", Decision.FAIL),
        (11.0, 30.0, "fail", Decision.FAIL),
        (11.0, 5.0, "fail", Decision.REVIEW),
        (20.0, 30.0, "review", Decision.FAIL),
    ],
)
def test_one_hot_patch_is_enough_for_the_decision_of_the_patch_rule(value, hottest, rule, decision):
    limits = Thresholds(review=10.0, fail=20.0, patch=30.0, patch_rule=rule)
    assert verdict.decide(value, hottest, limits) is decision


def test_a_trial_never_fails_a_part():
    limits = Thresholds(review=10.0, fail=20.0, patch=30.0, patch_rule="review", trial=True)
    decisions = [verdict.decide(value, hottest, limits) for value in (5.0, 15.0, 90.0) for hottest in (5.0, 90.0)]
    assert decisions == [Decision.PASS, *5 * [Decision.REVIEW]]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite_is_a_fault_of_the_device(value):
    with pytest.raises(Retry):
        verdict.decide(value, 0.0, Thresholds(review=10.0, fail=20.0))


def test_thresholds_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match="above the fail threshold"):
        Thresholds(review=2.0, fail=1.0)
