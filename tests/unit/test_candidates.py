"""The fast search finds what the plain one finds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspection import candidates, memory_bank


def both(bank, queries):
    index = memory_bank.build(bank)
    prepared = candidates.build(bank, len(queries), streams=1)
    return memory_bank.nearest(index, bank, queries), memory_bank.nearest_of(prepared, index, bank, queries)


def require_equal(bank, queries):
    (distances, rows), (fast_distances, fast_rows) = both(bank, queries)
    assert (rows == fast_rows).mean() >= 0.999
    np.testing.assert_allclose(fast_distances, distances, rtol=1e-3, atol=1e-6)


@given(
    rows=st.integers(600, 3000),
    dim=st.sampled_from([8, 152, 512]),
    mean=st.sampled_from([0.0, 100.0]),
    spread=st.sampled_from([0.01, 1.0]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=12)
def test_it_finds_the_same_neighbours_whatever_the_scale(rows, dim, mean, spread, seed):
    rng = np.random.default_rng(seed)
    bank = (mean + spread * rng.standard_normal((rows, dim))).astype(np.float32)
    queries = (mean + spread * rng.standard_normal((200, dim))).astype(np.float32)
    require_equal(bank, queries)


def test_a_large_bank_of_random_rows_with_many_near_ties_keeps_its_neighbours():
    rng = np.random.default_rng(0)
    bank = rng.standard_normal((16_384, 512)).astype(np.float32)
    require_equal(bank, rng.standard_normal((784, 512)).astype(np.float32))


def test_features_of_unequal_channels_keep_their_neighbours():
    rng = np.random.default_rng(0)
    scales = np.exp(rng.standard_normal(512) * 1.5)
    bank = (np.maximum(rng.standard_normal((1638, 512)), 0) * scales).astype(np.float32)
    queries = (np.maximum(rng.standard_normal((784, 512)), 0) * scales).astype(np.float32)
    require_equal(bank, queries)


def test_queries_far_outside_of_the_bank_are_left_to_faiss():
    rng = np.random.default_rng(0)
    bank = rng.standard_normal((1000, 64)).astype(np.float32)
    queries = rng.standard_normal((50, 64)).astype(np.float32)
    queries[::3] *= 40
    _, far = candidates.build(bank, 50, streams=1).find(queries)
    assert far[::3].all()
    require_equal(bank, queries)


def test_a_row_of_the_bank_itself_has_distance_zero():
    bank = np.random.default_rng(0).standard_normal((1111, 152)).astype(np.float32)
    _, (distances, rows) = both(bank, bank[:300].copy())
    assert (distances == 0).all()
    assert (rows == np.arange(300)).all()


def test_channels_that_never_change_do_no_harm():
    bank = np.zeros((700, 16), np.float32)
    bank[:, 0] = np.arange(700)
    queries = np.zeros((20, 16), np.float32)
    queries[:, 0] = np.arange(20) * 30 + 0.2
    require_equal(bank, queries)


def test_a_bank_is_prepared_where_it_is_worth_it(monkeypatch):
    monkeypatch.setattr(memory_bank, "build_candidates", lambda *_: "prepared")
    for rows, expected in ((100, None), (5000, "prepared")):
        bank = memory_bank.MemoryBank(None, np.zeros((rows, 4), np.float32), None)
        assert bank.prepared(10, 1).candidates == expected


@pytest.mark.parametrize("size", [513, 2048, 2049, 4100])
def test_sizes_around_blocks_and_chunks(size):
    rng = np.random.default_rng(size)
    require_equal(rng.standard_normal((size, 32)).astype(np.float32), rng.standard_normal((100, 32)).astype(np.float32))
