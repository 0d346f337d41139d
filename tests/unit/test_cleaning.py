"""Patches that no other image has at their place are discarded before the coreset."""

import numpy as np
import pytest

from patchline.banks import cleaning

IMAGES, POSITIONS, DIM = 30, 12, 8


def patches_of_images(seed=0):
    """Patches [images * positions, dim] around a centre for each position, and the position of each."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 10, (POSITIONS, DIM))
    points = centres + rng.normal(0, 1, (IMAGES, POSITIONS, DIM))
    return points.reshape(-1, DIM).astype(np.float32), np.tile(np.arange(POSITIONS), IMAGES)


def test_local_outlier_factors_are_those_of_scikit_learn():
    from sklearn.neighbors import LocalOutlierFactor

    points = np.random.default_rng(1).normal(0, 1, (80, DIM)).astype(np.float32)
    expected = -LocalOutlierFactor(n_neighbors=6).fit(points).negative_outlier_factor_
    np.testing.assert_allclose(cleaning.local_outlier_factors(points), expected, rtol=1e-3)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_points_are_no_outliers(count):
    assert cleaning.local_outlier_factors(np.zeros((count, DIM), np.float32)).tolist() == [1.0] * count


def test_equal_points_have_finite_factors():
    assert np.isfinite(cleaning.local_outlier_factors(np.ones((10, DIM), np.float32))).all()


def test_the_patches_of_a_defect_are_discarded_and_the_rest_of_its_image_stays():
    points, positions = patches_of_images()
    points[:3] += 20  # positions 0 to 2 of the first image
    kept = cleaning.kept_patches(points, positions, 0.05)
    assert not {0, 1, 2} & set(kept)
    assert len(set(range(3, POSITIONS)) & set(kept)) >= 8


def test_a_patch_in_the_wrong_place_is_discarded():
    points, positions = patches_of_images()
    points[0] = points[1]  # what all images have at position 1, at position 0
    assert 0 not in cleaning.kept_patches(points, positions, 0.01)


def test_the_stated_share_is_discarded_and_the_order_stays():
    points, positions = patches_of_images()
    kept = cleaning.kept_patches(points, positions, 0.15)
    assert len(kept) == len(points) - int(0.15 * len(points))
    assert (np.diff(kept) > 0).all()
    assert cleaning.kept_patches(points, positions, 0.0).tolist() == list(range(len(points)))


def test_the_order_of_the_patches_does_not_matter():
    points, positions = patches_of_images()
    order = np.random.default_rng(2).permutation(len(points))
    kept = cleaning.kept_patches(points[order], positions[order], 0.1)
    assert sorted(order[kept]) == cleaning.kept_patches(points, positions, 0.1).tolist()
