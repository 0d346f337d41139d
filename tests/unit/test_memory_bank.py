import json
import subprocess
import sys
import threading

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchline.banks import calibration, coreset, replace_folder, store
from patchline.inspection import memory_bank
from patchline.inspection.search import exact_search
from patchline.protocol.errors import SetupError
from patchline.protocol.messages import Thresholds


def greedy(points, count, first):
    """The plain algorithm, one centre at a time, in float64."""
    points = points.astype(np.float64)
    chosen = [first]
    nearest = ((points - points[first]) ** 2).sum(axis=1)
    for _ in range(count - 1):
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
    return chosen


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_coreset_is_the_plain_greedy_one(seed):
    points = np.random.default_rng(seed).standard_normal((3000, 24)).astype(np.float32)
    chosen = coreset.select(points, 200, seed)
    assert chosen.tolist() == greedy(points, 200, chosen[0])


def test_the_same_seed_gives_the_same_coreset():
    points = np.random.default_rng(0).standard_normal((20_000, 32)).astype(np.float32)
    assert np.array_equal(coreset.select(points, 300, 5), coreset.select(points, 300, 5))
    assert coreset.select(points, 1, 5) != coreset.select(points, 1, 6)


@given(st.integers(1, 60), st.integers(0, 9))
@settings(deadline=None)
def test_a_coreset_never_repeats_a_point_even_among_equal_ones(count, seed):
    points = np.repeat(np.arange(6, dtype=np.float32)[:, None], 10, axis=0)
    chosen = coreset.select(points, count, seed)
    assert len(set(chosen.tolist())) == count
    assert set(points[chosen[: min(count, 6)], 0]) == set(points[chosen[:6], 0])


def test_the_projection_keeps_distances_roughly_and_small_features_entirely():
    wide = np.random.default_rng(0).standard_normal((200, 512)).astype(np.float32)
    ratio = np.linalg.norm(np.diff(coreset.project(wide, 0), axis=0), axis=1) / np.linalg.norm(
        np.diff(wide, axis=0), axis=1
    )
    assert abs(ratio.mean() - 1) < 0.03
    assert coreset.project(wide[:, :100], 0) is not None
    assert np.array_equal(coreset.project(wide[:, :100], 0), wide[:, :100])


@given(st.integers(20, 300), st.sampled_from([0.05, 0.1, 0.2]), st.integers(0, 1000))
@settings(deadline=None, max_examples=50)
def test_the_threshold_is_the_conformal_quantile(count, rate, seed):
    scores = np.random.default_rng(seed).random(count).astype(np.float32)
    above = (scores >= calibration.threshold(scores, rate)).sum()
    assert above <= (count + 1) * rate
    assert above >= (count + 1) * rate - 2


def test_new_good_images_exceed_the_threshold_as_rarely_as_promised():
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(400):
        threshold = calibration.threshold(rng.gamma(3.0, size=60).astype(np.float32), 0.05)
        rates.append((rng.gamma(3.0, size=500) >= threshold).mean())
    assert np.mean(rates) <= 0.05


def test_too_few_images_are_refused_with_what_is_possible():
    with pytest.raises(SetupError, match=r"20 good images are too few.*it takes 99.*0\.048 or more"):
        calibration.threshold(np.arange(20, dtype=np.float32), 0.01)
    calibration.threshold(np.arange(20, dtype=np.float32), 0.048)


@pytest.fixture
def kept(tmp_path):
    """A bank that is kept in a folder, its features and its manifest."""
    features = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    index_bytes = exact_search.encode_index(features)
    manifest = memory_bank.BankManifest(
        category="brick",
        backbone="efficientnet_lite0",
        backbone_sha256="0" * 64,
        layer="blocks4+10",
        precision="f32",
        device="cpu:0",
        resize=128,
        imagesize=128,
        dim=8,
        patches=50,
        coreset_ratio=0.1,
        seed=0,
        good_images=25,
        candidate_patches=500,
        score="topk10",
        thresholds=Thresholds(review=1.0, fail=2.0),
        calibration=memory_bank.Calibration(
            method="leave-one-image-out",
            images=25,
            false_reject_rate=0.05,
            review_rate=0.1,
            held_out_median=0.5,
            held_out_max=2.0,
        ),
        index_sha256=store.digest(index_bytes),
        created_at="2026-01-01T00:00:00+00:00",
        versions={},
    )
    folder = tmp_path / "brick"
    store.save(folder, index_bytes, manifest)
    return folder, features, manifest


def test_a_bank_that_was_saved_is_loaded_and_searched(kept):
    folder, features, manifest = kept
    bank = store.load(folder)
    assert bank.manifest == manifest
    assert np.array_equal(bank.search.features, features)
    assert not bank.distances(features).all().any()
    assert sorted(each.name for each in folder.parent.iterdir()) == ["brick"]


def test_a_new_bank_replaces_the_old_one_as_a_whole(kept):
    folder, _, manifest = kept
    features = np.ones((3, 8), np.float32)
    index_bytes = exact_search.encode_index(features)
    changed = {"patches": 3, "index_sha256": store.digest(index_bytes)}
    store.save(folder, index_bytes, manifest.model_copy(update=changed))
    assert store.load(folder).search.features.shape == (3, 8)
    assert sorted(each.name for each in folder.parent.iterdir()) == ["brick"]


def test_the_file_is_one_that_faiss_reads(kept):
    folder, features, _ = kept
    index = faiss.read_index(str(folder / "nnscorer_search_index.faiss"))
    assert (index.ntotal, index.d) == features.shape


def edit_manifest(folder, **changes):
    path = folder / store.MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda folder: (folder / store.INDEX_FILE).unlink(), "cannot be read"),
        (lambda folder: (folder / store.MANIFEST_FILE).unlink(), "cannot be read"),
        (lambda folder: (folder / store.INDEX_FILE).write_bytes(b"junk"), "is not the index"),
        (lambda folder: (folder / store.MANIFEST_FILE).write_text("{"), "JSON"),
        (lambda folder: edit_manifest(folder, patches=51), "no IndexFlatL2 of 51 x 8"),
        (lambda folder: edit_manifest(folder, surprise=1), "surprise"),
        (lambda folder: edit_manifest(folder, thresholds={"review": 3.0, "fail": 2.0}), "above the fail threshold"),
        (lambda folder: edit_manifest(folder, thresholds={"review": -1.0, "fail": 2.0}), "greater than 0"),
    ],
)
def test_a_damaged_bank_is_refused_with_what_to_do(kept, damage, text):
    folder = kept[0]
    damage(folder)
    with pytest.raises(SetupError) as caught:
        store.load(folder)
    assert text in str(caught.value)
    assert "patchline fit --category brick" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_features_that_are_not_finite_are_refused(kept):
    folder, features, _ = kept
    features[3, 3] = np.nan
    index_bytes = exact_search.encode_index(features)
    (folder / store.INDEX_FILE).write_bytes(index_bytes)
    edit_manifest(folder, index_sha256=store.digest(index_bytes))
    with pytest.raises(SetupError, match="not finite"):
        store.load(folder)


SAVE_FOR_EVER = """
import sys
from pathlib import Path
from patchline.banks import store
from patchline.inspection import memory_bank
folder, index = Path(sys.argv[1]), Path(sys.argv[1], store.INDEX_FILE).read_bytes()
manifest = memory_bank.BankManifest.model_validate_json((folder / store.MANIFEST_FILE).read_bytes())
print("saving", flush=True)
for seed in range(1, 1_000_000):
    store.save(folder, index, manifest.model_copy(update={"seed": seed}))
"""


def test_a_fit_that_is_interrupted_at_any_moment_leaves_a_whole_bank(kept):
    folder = kept[0]
    rng = np.random.default_rng(3)
    for _ in range(8):
        fit = subprocess.Popen([sys.executable, "-c", SAVE_FOR_EVER, str(folder)], stdout=subprocess.PIPE)
        assert fit.stdout.readline() == b"saving\n"
        threading.Event().wait(rng.uniform(0.0, 0.05))
        fit.kill()
        fit.wait()
        fit.stdout.close()
        store.load(folder)


def test_where_folders_cannot_be_exchanged_the_old_one_is_moved_away(kept, monkeypatch):
    folder = kept[0]
    monkeypatch.setattr(replace_folder, "_exchange", lambda *_: False)
    aside = folder.with_name("aside")
    aside.mkdir()
    (aside / "new").touch()
    replace_folder.replace_folder(aside, folder)
    assert [each.name for each in folder.iterdir()] == ["new"]
    assert [each.name for each in folder.parent.iterdir()] == [folder.name]
