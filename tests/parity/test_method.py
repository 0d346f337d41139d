"""Scores and coreset against plain numpy implementations."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage

from patchline.banks import coreset
from patchline.devices import backbone, loading
from patchline.inspection import score
from patchline.inspection.search import exact_search

IMAGES, SIDE = 200, 128


def plain_scores(patches, bank):
    """The image scores of the reference, in float64 and one patch at a time."""
    nearest = [((bank - patch) ** 2).sum(axis=1).min() for patch in patches.astype(np.float64)]
    largest = np.sort(nearest)[::-1]
    return largest[0], largest[:10].mean()


def greedy_k_centre(points, count, first):
    """Greedy k-centre selection, one centre at a time."""
    centres, nearest = [first], np.linalg.norm(points - points[first], axis=1)
    while len(centres) < count:
        centres.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(points - points[centres[-1]], axis=1))
    return np.array(centres)


def covering_radius(points, centres):
    """The largest distance between a point and its nearest centre."""
    nearest = np.full(len(points), np.inf)
    for centre in points[centres]:
        nearest = np.minimum(nearest, np.linalg.norm(points - centre, axis=1))
    return nearest.max()


@pytest.fixture(scope="module")
def features():
    """float32 [200, 256, 152], of crops of three surfaces."""
    model = loading.load(Path("models"), "efficientnet_lite0", SIDE, backbone.CPU, streams=1)
    folder, rng = Path(skimage.__file__).parent / "data", np.random.default_rng(0)
    surfaces = [cv2.imread(str(folder / f"{name}.png"), cv2.IMREAD_COLOR_RGB) for name in ("brick", "gravel", "grass")]
    corners = rng.integers(0, 512 - SIDE, (IMAGES, 2))
    crops = [surfaces[number % 3][y : y + SIDE, x : x + SIDE] for number, (y, x) in enumerate(corners)]
    return np.concatenate([model.extract(np.ascontiguousarray(crop)[None]) for crop in crops])


@pytest.mark.timeout(300)
def test_scores_of_200_images_agree_with_plain_numpy(features):
    candidates = features[:40].reshape(-1, features.shape[2])
    bank = candidates[coreset.select(coreset.project(candidates, 0), 200, 0)]
    search = exact_search.brute_force(bank)
    largest_error = {"max": 0.0, "topk10": 0.0}
    for patches in features[40:]:
        scores = score.image_scores(search.nearest(patches)[0])
        for kind, expected in zip(largest_error, plain_scores(patches, bank.astype(np.float64)), strict=True):
            largest_error[kind] = max(largest_error[kind], abs(getattr(scores, kind) / expected - 1))
    for patches in features[:40]:  # images of the bank have scores near zero
        scores = score.image_scores(search.nearest(patches)[0])
        assert scores.topk10 == pytest.approx(plain_scores(patches, bank.astype(np.float64))[1], rel=1e-4)
    assert max(largest_error.values()) < 1e-4


def test_the_coreset_covers_the_points_as_well_as_plain_greedy_k_centre(features):
    candidates = features[:60].reshape(-1, features.shape[2])
    points = coreset.project(candidates, 0)
    centres = coreset.select(points, 300, seed=0)
    assert np.array_equal(centres, coreset.select(points, 300, seed=0))
    reference = greedy_k_centre(points, 300, first=0)
    assert covering_radius(points, centres) < 1.05 * covering_radius(points, reference)
    assert covering_radius(candidates, centres) < 1.05 * covering_radius(candidates, reference)
