"""The search with pruning gives the same neighbours as a comparison of each query with every row."""

import re

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchline.inspection.search import exact_search, lower_bounds
from patchline.inspection.search.lazy_distances import LazyDistances
from patchline.inspection.search.lower_bounds import LowerBounds

COUNT = 10


def part_features(rows, dim, seed, directions=12):
    """Features like those of a network on parts: a few directions and a little noise, cut off at zero."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((rows, directions)) @ np.random.default_rng(9).standard_normal((directions, dim))
    return np.maximum(mixed + 0.3 * rng.standard_normal((rows, dim)), 0).astype(np.float32)


def squared_distances(queries, bank):
    queries, bank = queries.astype(np.float64), bank.astype(np.float64)
    return (queries**2).sum(axis=1)[:, None] + (bank**2).sum(axis=1) - 2 * queries @ bank.T


def require_exact(bank, queries):
    """Compare with float64. If two rows are equally near as far as float32 can tell, either is right."""
    search = exact_search.with_pruning(bank)
    assert search.lower_bounds is not None
    distances, rows = search.nearest(queries)
    true = ((queries.astype(np.float64) - bank[rows]) ** 2).sum(axis=1)
    np.testing.assert_allclose(distances, true, rtol=1e-6, atol=1e-12)
    lazy = LazyDistances.start(search, queries)
    np.testing.assert_allclose(np.sort(lazy.largest(COUNT)), np.sort(distances)[-COUNT:], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(lazy.all(), distances, rtol=1e-6, atol=1e-12)
    smallest = squared_distances(queries, bank).min(axis=1)
    np.testing.assert_allclose(true, smallest, rtol=1e-6, atol=1e-9 * (bank.astype(np.float64) ** 2).sum(axis=1).max())
    return search


@given(
    rows=st.integers(600, 3000),
    dim=st.sampled_from([64, 152, 512]),
    mean=st.sampled_from([0.0, 100.0]),
    scale=st.sampled_from([0.001, 1.0, 1000.0]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=25)
@pytest.mark.timeout(180)  # a busy machine needs more than the default
def test_no_lower_bound_exceeds_its_distance_at_any_scale(rows, dim, mean, scale, seed):
    bank = scale * (mean + part_features(rows, dim, seed))
    queries = scale * (mean + np.concatenate([part_features(90, dim, seed + 1), np.zeros((10, dim), np.float32)]))
    bounds = require_exact(bank, queries).lower_bounds
    bank_mean = bank.mean(axis=0)
    true = squared_distances(queries - bank_mean, bank - bank_mean)
    for block, block_bounds in bounds.blocks(queries):
        assert block_bounds.shape == true[:, block].shape
        assert (block_bounds <= true[:, block] * (1 + 1e-6)).all()


@pytest.mark.parametrize(("queries", "dim", "rows"), [(784, 512, 1638), (1024, 152, 3000), (196, 512, 16_384)])
def test_the_neighbours_are_those_of_float64(queries, dim, rows):
    require_exact(part_features(rows, dim, 0), part_features(queries, dim, 1))


@pytest.mark.parametrize("queries", [1, 2, 99, 341, 1000])
def test_any_number_of_queries_is_searched_in_blocks_of_rows(monkeypatch, queries):
    monkeypatch.setattr(lower_bounds, "_BOUNDS_PER_BLOCK", 100_000)
    require_exact(part_features(1000, 64, 0), part_features(queries, 64, 1))


def test_a_row_of_the_bank_has_distance_zero():
    bank = part_features(1111, 152, 0)
    distances, rows = exact_search.with_pruning(bank).nearest(bank[:300].copy())
    assert (distances == 0).all()
    assert (rows == np.arange(300)).all()


def test_the_largest_distances_need_a_search_for_few_queries_only(monkeypatch):
    bank, queries = part_features(3000, 152, 0), part_features(1024, 152, 1)
    search, searched = exact_search.with_pruning(bank), []
    nearest = exact_search.Search.nearest
    distances = nearest(search, queries)[0]

    def counting_nearest(self, queries, enough, limits):
        searched.append(len(queries))
        return nearest(self, queries, enough, limits)

    monkeypatch.setattr(exact_search.Search, "nearest", counting_nearest)
    lazy = LazyDistances.start(search, queries)
    np.testing.assert_array_equal(np.sort(lazy.largest(COUNT)), np.sort(distances)[-COUNT:])
    assert 4 * COUNT <= sum(searched) < 300
    known = np.count_nonzero(lazy.exact)
    np.testing.assert_array_equal(lazy.all(), distances)
    assert searched[-1] == 1024 - known, "a patch whose distance is known was searched again"


def test_a_row_that_is_near_enough_ends_the_search_of_a_query_and_of_no_other_one():
    bank, queries = part_features(3000, 152, 0), part_features(300, 152, 1)
    queries[7, 3] = np.nan
    search = exact_search.with_pruning(bank)
    exact, enough = search.nearest(queries)[0], float(np.nanmedian(search.nearest(queries)[0]))
    found, rows = search.nearest(queries, enough)
    is_near = found <= enough
    np.testing.assert_array_equal(is_near, exact <= enough)
    np.testing.assert_array_equal(found[~is_near], exact[~is_near])
    np.testing.assert_allclose(found, ((queries - bank[rows]) ** 2).sum(axis=1), rtol=1e-5)


def test_the_largest_distances_are_right_if_the_upper_bounds_mislead():
    """The patches with the largest upper bounds have a near row that is never a candidate."""
    rng = np.random.default_rng(0)
    bank = part_features(2000, 152, 0)
    queries = part_features(500, 152, 1)
    queries[:40] += rng.standard_normal((40, 152)).astype(np.float32) * 3
    bank[::50] = queries[:40] + rng.standard_normal((40, 152)).astype(np.float32) * 0.01
    require_exact(bank, queries)


@pytest.mark.parametrize("count", [1, 9, 10, 11, 40])
def test_the_largest_of_too_few_queries_are_all_of_them(count):
    bank, queries = part_features(1000, 152, 0), part_features(count, 152, 1)
    for search in (exact_search.brute_force(bank), exact_search.with_pruning(bank)):
        assert LazyDistances.start(search, queries).largest(COUNT).shape == (min(count, COUNT),)


def test_constant_channels_do_no_harm():
    bank = np.zeros((700, 64), np.float32)
    bank[:, 0] = np.arange(700)
    queries = np.zeros((20, 64), np.float32)
    queries[:, 0] = np.arange(20) * 30 + 0.2
    require_exact(bank, queries)


def test_queries_that_no_bound_helps_go_through_brute_force(monkeypatch):
    bank = part_features(1000, 152, 0)
    far_queries = (1e4 * np.random.default_rng(0).standard_normal((200, 152))).astype(np.float32)
    brute_force, with_pruning = exact_search.brute_force(bank), exact_search.with_pruning(bank)
    searched, knn = [], faiss.knn
    monkeypatch.setattr(faiss, "knn", lambda queries, *rest: searched.append(len(queries)) or knn(queries, *rest))
    _, rows = with_pruning.nearest(far_queries)
    assert searched == [200]
    monkeypatch.undo()
    np.testing.assert_array_equal(rows, brute_force.nearest(far_queries)[1])


def test_queries_that_no_bound_helps_in_one_block_have_the_nearest_row_of_all_blocks(monkeypatch):
    monkeypatch.setattr(lower_bounds, "_BOUNDS_PER_BLOCK", 10_000)
    bank, queries = part_features(1000, 152, 0), part_features(200, 152, 1)
    queries[::2] += (100 * np.random.default_rng(0).standard_normal((100, 152))).astype(np.float32)
    bank[700:720] = queries[:40:2] + np.float32(0.01)
    require_exact(bank, queries)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_only_the_distance_of_a_query_that_is_not_finite_is_not_finite(value):
    bank, queries = part_features(1000, 152, 0), part_features(50, 152, 1)
    queries[7, 3] = value
    for search in (exact_search.brute_force(bank), exact_search.with_pruning(bank)):
        assert np.flatnonzero(~np.isfinite(search.nearest(queries)[0])).tolist() == [7]
        assert np.count_nonzero(~np.isfinite(LazyDistances.start(search, queries).largest(COUNT))) == 1


def test_noise_has_no_lower_bounds():
    noise = np.random.default_rng(0).standard_normal((1000, 512)).astype(np.float32)
    assert LowerBounds.build(noise) is None


def test_a_small_bank_is_searched_by_brute_force():
    bank = part_features(400, 152, 0)
    assert exact_search.with_pruning(bank).lower_bounds is None


def test_distances_are_exact_if_features_have_a_large_mean():
    rng = np.random.default_rng(0)
    bank = (rng.standard_normal((500, 64)) + 100).astype(np.float32)
    queries = (rng.standard_normal((200, 64)) + 100).astype(np.float32)
    exact = ((queries[:, None].astype(np.float64) - bank[None]) ** 2).sum(axis=2)
    distances, neighbours = exact_search.brute_force(bank).nearest(queries)
    assert np.abs(distances / exact[np.arange(200), neighbours] - 1).max() < 1e-6
    assert np.abs(distances / exact.min(axis=1) - 1).max() < 1e-6


def test_a_search_describes_itself():
    bank = part_features(700, 152, 0)
    assert str(exact_search.brute_force(bank)) == "700 patches, searched by faiss"
    description = str(exact_search.with_pruning(bank))
    assert re.fullmatch(r"700 patches, searched by \d+ of 152 components, then faiss", description)
