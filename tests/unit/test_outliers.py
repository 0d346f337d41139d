"""Images that do not look like the other good ones are found by their held-out scores."""

import numpy as np
import pytest

from patchline.banks import outliers


def good_scores(seed, images=99):
    """Held-out scores as the solar cells have them: log-normal around 660."""
    return (660 * np.exp(np.random.default_rng(seed).normal(0, 0.15, images))).astype(np.float32)


def exponential_sets(count, images):
    rng = np.random.default_rng(0)
    return 500 + 100 * rng.standard_exponential((count, images)).astype(np.float32)


@pytest.mark.parametrize("seed", range(10))
def test_a_defect_among_99_good_images_is_the_only_suspect(seed):
    scores = np.insert(good_scores(seed), 40, 1900)
    assert outliers.suspects(scores).tolist() == [40]


@pytest.mark.parametrize("seed", range(10))
def test_good_images_alone_have_no_suspect(seed):
    assert outliers.suspects(good_scores(seed)).size == 0


@pytest.mark.parametrize("seed", range(10))
def test_several_defects_do_not_hide_each_other(seed):
    scores = np.concatenate([[1900, 1950, 2000, 2400, 1800], good_scores(seed, 95)]).astype(np.float32)
    assert sorted(outliers.suspects(scores)) == [0, 1, 2, 3, 4]


def test_suspects_come_with_the_highest_score_first():
    scores = np.concatenate([[1900, 2400, 2000], good_scores(0)]).astype(np.float32)
    assert outliers.suspects(scores).tolist() == [1, 2, 0]


@pytest.mark.parametrize("images", [8, 10, 24, 100, 1000])
def test_the_level_of_the_test_is_as_stated_for_an_exponential_tail(images):
    refused = [outliers.suspects(scores).size > 0 for scores in exponential_sets(2000, images)]
    assert np.mean(refused) == pytest.approx(outliers.SIGNIFICANCE, abs=0.015)


def test_the_unit_of_the_scores_changes_nothing():
    scores = exponential_sets(1, 100)[0]
    np.testing.assert_allclose(outliers.p_values(scores * 1000), outliers.p_values(scores), rtol=1e-3)


def test_fewer_than_eight_images_have_no_suspect():
    assert outliers.suspects(np.array([1, 1, 1, 1, 1, 1, 100], np.float32)).size == 0
    assert outliers.suspects(np.array([], np.float32)).size == 0


def test_one_image_unlike_equal_ones_is_a_suspect():
    assert outliers.suspects(np.array([1.0] * 20 + [1.1], np.float32)).tolist() == [20]


def test_equal_scores_have_no_suspect():
    assert outliers.suspects(np.full(20, 3.0, np.float32)).size == 0
