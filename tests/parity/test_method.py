"""Scores against a plain numpy statement of the method, and the coreset against a straightforward one."""

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
    """PatchCore's image scores as the reference computes them, in float64 and one patch at a time."""
    nearest = [((bank - patch) ** 2).sum(axis=1).min() for patch in patches.astype(np.float64)]
    largest = np.sort(nearest)[::-1]
    return largest[0], largest[:10].mean()


def plain_greedy(points, count, first):
    """Greedy k-centre, one centre at a time; returns the centres."""
    chosen, nearest = [first], np.linalg.norm(points - points[first], axis=1)
    while len(chosen) < count:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return np.array(chosen)


def radius(points, centres):
    """The distance of the point that is farthest from its nearest centre."""
    nearest = np.full(len(points), np.inf)
    for centre in points[centres]:
        nearest = np.minimum(nearest, np.linalg.norm(points - centre, axis=1))
    return nearest.max()


@pytest.fixture(scope="module")
def features():
    """float32 [200, 256, 152]: pieces of three surfaces."""
    model = loading.load(Path("models"), "efficientnet_lite0", SIDE, backbone.CPU, streams=1)
    folder, rng = Path(skimage.__file__).parent / "data", np.random.default_rng(0)
    surfaces = [cv2.imread(str(folder / f"{name}.png"), cv2.IMREAD_COLOR_RGB) for name in ("brick", "gravel", "grass")]
    corners = rng.integers(0, 512 - SIDE, (IMAGES, 2))
    pieces = [surfaces[number % 3][y : y + SIDE, x : x + SIDE] for number, (y, x) in enumerate(corners)]
    return np.concatenate([model.extract(np.ascontiguousarray(piece)[None]) for piece in pieces])


@pytest.mark.timeout(300)
def test_scores_of_two_hundred_images_agree_with_the_plain_statement(features):
    candidates = features[:40].reshape(-1, features.shape[2])
    bank = candidates[coreset.select(coreset.project(candidates, 0), 200, 0)]
    own = exact_search.brute_force(bank)
    worst = {"max": 0.0, "topk10": 0.0}
    for patches in features[40:]:
        found = score.image_scores(own.nearest(patches)[0])
        for kind, expected in zip(worst, plain_scores(patches, bank.astype(np.float64)), strict=True):
            worst[kind] = max(worst[kind], abs(getattr(found, kind) / expected - 1))
    for patches in features[:40]:  # images that are in the bank themselves have scores near zero
        found = score.image_scores(own.nearest(patches)[0])
        assert found.topk10 == pytest.approx(plain_scores(patches, bank.astype(np.float64))[1], rel=1e-4)
    assert max(worst.values()) < 1e-4


def test_the_coreset_covers_as_well_as_a_straightforward_greedy_one(features):
    candidates = features[:60].reshape(-1, features.shape[2])
    points = coreset.project(candidates, 0)
    chosen = coreset.select(points, 300, seed=0)
    assert np.array_equal(chosen, coreset.select(points, 300, seed=0))
    straightforward = plain_greedy(points, 300, first=0)
    assert radius(points, chosen) < 1.05 * radius(points, straightforward)
    assert radius(candidates, chosen) < 1.05 * radius(candidates, straightforward)
