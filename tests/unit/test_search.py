"""What the bounds do not rule out holds the nearest row: the fast search is as exact as measuring every row."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchline.inspection.search import exact_search, lower_bounds
from patchline.inspection.search.distances import of

COUNT = 10


def features_of_parts(rows, dim, seed, directions=12):
    """A few directions and a little noise, cut off at zero: what a network's features look like."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((rows, directions)) @ np.random.default_rng(9).standard_normal((directions, dim))
    return np.maximum(mixed + 0.3 * rng.standard_normal((rows, dim)), 0).astype(np.float32)


def squared_distances(queries, bank):
    queries, bank = queries.astype(np.float64), bank.astype(np.float64)
    return (queries**2).sum(axis=1)[:, None] + (bank**2).sum(axis=1) - 2 * queries @ bank.T


def require_exact(bank, queries):
    """Also where two rows are as good as equally near: then either will do."""
    prepared = exact_search.with_pruning(bank)
    assert prepared.bounds is not None
    found, rows = prepared.nearest(queries)
    true = ((queries.astype(np.float64) - bank[rows]) ** 2).sum(axis=1)
    np.testing.assert_allclose(found, true, rtol=1e-6, atol=1e-12)
    lazy = of(queries, prepared)
    np.testing.assert_allclose(np.sort(lazy.largest(COUNT)), np.sort(found)[-COUNT:], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(lazy.all(), found, rtol=1e-6, atol=1e-12)
    least = squared_distances(queries, bank).min(axis=1)
    np.testing.assert_allclose(true, least, rtol=1e-6, atol=1e-9 * (bank.astype(np.float64) ** 2).sum(axis=1).max())


@given(
    rows=st.integers(600, 3000),
    dim=st.sampled_from([64, 152, 512]),
    mean=st.sampled_from([0.0, 100.0]),
    scale=st.sampled_from([0.001, 1.0, 1000.0]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=25)
def test_no_bound_is_above_its_distance_whatever_the_scale(rows, dim, mean, scale, seed):
    bank = scale * (mean + features_of_parts(rows, dim, seed))
    queries = scale * (mean + np.concatenate([features_of_parts(90, dim, seed + 1), np.zeros((10, dim), np.float32)]))
    prepared = lower_bounds.prepare(bank)
    assert prepared is not None
    centred = bank.mean(axis=0)
    true = squared_distances(queries - centred, bank - centred)
    for some, least in prepared.of(queries):
        assert least.shape == true[some].shape
        assert (least <= true[some] * (1 + 1e-6)).all()
    require_exact(bank, queries)


@pytest.mark.parametrize(("queries", "dim", "rows"), [(784, 512, 1638), (1024, 152, 3000), (196, 512, 16_384)])
def test_the_neighbours_are_those_of_float64(queries, dim, rows):
    require_exact(features_of_parts(rows, dim, 0), features_of_parts(queries, dim, 1))


@pytest.mark.parametrize("queries", [1, 2, 99, 341, 1000])
def test_every_query_is_answered_however_they_are_divided(monkeypatch, queries):
    monkeypatch.setattr(lower_bounds, "_AT_ONCE", 100_000)
    require_exact(features_of_parts(1000, 64, 0), features_of_parts(queries, 64, 1))


def test_a_row_of_the_bank_itself_has_distance_zero():
    bank = features_of_parts(1111, 152, 0)
    distances, rows = exact_search.with_pruning(bank).nearest(bank[:300].copy())
    assert (distances == 0).all()
    assert (rows == np.arange(300)).all()


def test_the_farthest_are_found_though_few_queries_are_searched(monkeypatch):
    bank, queries = features_of_parts(3000, 152, 0), features_of_parts(1024, 152, 1)
    prepared, searched = exact_search.with_pruning(bank), []
    nearest = exact_search.Search.nearest
    everything = nearest(prepared, queries)[0]

    def counted(self, some):
        searched.append(len(some))
        return nearest(self, some)

    monkeypatch.setattr(exact_search.Search, "nearest", counted)
    lazy = of(queries, prepared)
    np.testing.assert_array_equal(np.sort(lazy.largest(COUNT)), np.sort(everything)[-COUNT:])
    assert 4 * COUNT <= sum(searched) < 300
    np.testing.assert_array_equal(lazy.all(), everything)
    assert sum(searched) == 1024, "no patch is searched twice"


def test_the_farthest_are_found_where_guesses_mislead():
    """A row that is never guessed is the nearest of the patches that seem to be the farthest."""
    rng = np.random.default_rng(0)
    bank = features_of_parts(2000, 152, 0)
    queries = features_of_parts(500, 152, 1)
    queries[:40] += rng.standard_normal((40, 152)).astype(np.float32) * 3
    bank[::50] = queries[:40] + rng.standard_normal((40, 152)).astype(np.float32) * 0.01
    require_exact(bank, queries)


@pytest.mark.parametrize("count", [1, 9, 10, 11, 40])
def test_fewer_queries_than_are_wanted_are_all_of_them(count):
    bank, queries = features_of_parts(1000, 152, 0), features_of_parts(count, 152, 1)
    for each in (exact_search.brute_force(bank), exact_search.with_pruning(bank)):
        assert of(queries, each).largest(COUNT).shape == (min(count, COUNT),)


def test_channels_that_never_change_do_no_harm():
    bank = np.zeros((700, 64), np.float32)
    bank[:, 0] = np.arange(700)
    queries = np.zeros((20, 64), np.float32)
    queries[:, 0] = np.arange(20) * 30 + 0.2
    require_exact(bank, queries)


def test_queries_that_no_bound_helps_are_left_to_faiss():
    bank = features_of_parts(1000, 152, 0)
    far = (1e4 * np.random.default_rng(0).standard_normal((200, 152))).astype(np.float32)
    asked = []

    class Index:
        def search(self, queries, count):
            asked.append(len(queries))
            return plain.index.search(queries, count)

    plain, prepared = exact_search.brute_force(bank), exact_search.with_pruning(bank)
    _, rows = replace(prepared, index=Index()).nearest(far)
    assert asked == [200]
    np.testing.assert_array_equal(rows, plain.nearest(far)[1])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_query_that_is_no_number_has_a_distance_that_is_none_and_harms_no_other(value):
    bank, queries = features_of_parts(1000, 152, 0), features_of_parts(50, 152, 1)
    queries[7, 3] = value
    for each in (exact_search.brute_force(bank), exact_search.with_pruning(bank)):
        assert np.flatnonzero(~np.isfinite(each.nearest(queries)[0])).tolist() == [7]
        assert np.count_nonzero(~np.isfinite(of(queries, each).largest(COUNT))) == 1


def test_where_every_direction_counts_nothing_is_prepared():
    noise = np.random.default_rng(0).standard_normal((1000, 512)).astype(np.float32)
    assert lower_bounds.prepare(noise) is None


def test_a_small_bank_is_left_to_faiss():
    bank = features_of_parts(400, 152, 0)
    assert exact_search.with_pruning(bank).bounds is None


def test_distances_are_exact_where_features_have_a_large_mean():
    rng = np.random.default_rng(0)
    bank = (rng.standard_normal((500, 64)) + 100).astype(np.float32)
    queries = (rng.standard_normal((200, 64)) + 100).astype(np.float32)
    exact = ((queries[:, None].astype(np.float64) - bank[None]) ** 2).sum(axis=2)
    found, neighbours = exact_search.brute_force(bank).nearest(queries)
    assert np.abs(found / exact[np.arange(200), neighbours] - 1).max() < 1e-6
    assert np.abs(found / exact.min(axis=1) - 1).max() < 1e-6


def test_a_search_says_how_it_is_done():
    bank = features_of_parts(700, 152, 0)
    assert str(exact_search.brute_force(bank)) == "700 patches, searched by faiss"
    assert re.fullmatch(
        r"700 patches, searched by \d+ of 152 components, then faiss", str(exact_search.with_pruning(bank))
    )
