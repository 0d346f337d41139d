"""The features of the backbone against golden arrays, and the scores against float64."""

from pathlib import Path

import numpy as np
import pytest

from patchline.banks import coreset
from patchline.devices import backbone, loading
from patchline.inspection import score
from patchline.inspection.search import exact_search
from tests.parity.make_golden import GOLDEN, brick_crop


@pytest.fixture(scope="module")
def features():
    model = loading.load(Path("models"), "efficientnet_lite0", 128, backbone.CPU, streams=1)
    return model.extract(brick_crop())


def test_the_compiled_backbone_gives_the_features_of_the_torch_network(features):
    golden = np.load(GOLDEN)["features"]
    assert features.shape == golden.shape == (1, 256, 152)
    assert features.dtype == np.float32
    assert np.abs(features - golden).max() < 1e-3 * np.abs(golden).max()


def test_a_batch_gives_the_same_features_as_single_images():
    model = loading.load(Path("models"), "efficientnet_lite0", 128, backbone.CPU, streams=2)
    images = np.concatenate([brick_crop(), 255 - brick_crop(), np.zeros_like(brick_crop())])
    single = np.concatenate([model.extract(image[None]) for image in images])
    assert np.abs(model.extract(images) - single).max() < 1e-3


def test_the_network_contains_the_3x3_mean(features):
    """On a constant image, the mean with zero padding changes the rim only."""
    model = loading.load(Path("models"), "efficientnet_lite0", 128, backbone.CPU, streams=1)
    grid = model.extract(np.full((1, 128, 128, 3), 90, np.uint8)).reshape(16, 16, 152)[..., :40]
    inside, edge, corner = grid[8, 8], grid[0, 8], grid[0, 0]
    strong = np.abs(inside) > 0.5 * np.abs(inside).max()
    assert np.median(np.abs(edge[strong] / inside[strong])) < 0.9
    assert np.median(np.abs(corner[strong] / inside[strong])) < 0.75


def test_scores_agree_with_the_reference_in_float64(features):
    patches = features[0]
    bank = patches[coreset.select(patches, 40, 0)] + np.float32(0.25)
    exact = ((patches[:, None].astype(np.float64) - bank[None]) ** 2).sum(axis=2).min(axis=1)
    distances, _ = exact_search.brute_force(bank).nearest(patches)
    assert np.abs(distances / exact - 1).max() < 1e-4
    scores = score.image_scores(distances)
    assert scores.max == pytest.approx(exact.max(), rel=1e-5)
    assert scores.topk10 == pytest.approx(np.sort(exact)[-10:].mean(), rel=1e-5)
