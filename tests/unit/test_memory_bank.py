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
from patchline.runtime.parent import end_with_parent


def greedy_k_centre(points, count, first):
    """The plain algorithm, one centre at a time, in float64."""
    points = points.astype(np.float64)
    centres = [first]
    nearest = ((points - points[first]) ** 2).sum(axis=1)
    for _ in range(count - 1):
        centres.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, ((points - points[centres[-1]]) ** 2).sum(axis=1))
    return centres


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_coreset_is_that_of_the_plain_greedy_algorithm(seed):
    points = np.random.default_rng(seed).standard_normal((3000, 24)).astype(np.float32)
    centres = coreset.select(points, 200, seed)
    assert centres.tolist() == greedy_k_centre(points, 200, centres[0])


def test_the_same_seed_gives_the_same_coreset():
    points = np.random.default_rng(0).standard_normal((20_000, 32)).astype(np.float32)
    assert np.array_equal(coreset.select(points, 300, 5), coreset.select(points, 300, 5))
    assert coreset.select(points, 1, 5) != coreset.select(points, 1, 6)


@given(st.integers(1, 60), st.integers(0, 9))
@settings(deadline=None)
def test_a_coreset_has_no_point_twice_even_if_points_are_equal(count, seed):
    points = np.repeat(np.arange(6, dtype=np.float32)[:, None], 10, axis=0)
    centres = coreset.select(points, count, seed)
    assert len(set(centres.tolist())) == count
    assert set(points[centres[: min(count, 6)], 0]) == set(points[centres[:6], 0])


def test_the_projection_preserves_distances_and_leaves_short_features_alone():
    wide = np.random.default_rng(0).standard_normal((200, 512)).astype(np.float32)
    ratio = np.linalg.norm(np.diff(coreset.project(wide, 0), axis=0), axis=1) / np.linalg.norm(
        np.diff(wide, axis=0), axis=1
    )
    assert abs(ratio.mean() - 1) < 0.03
    assert np.array_equal(coreset.project(wide[:, :100], 0), wide[:, :100])


@given(st.integers(20, 300), st.sampled_from([0.05, 0.1, 0.2]), st.integers(0, 1000))
@settings(deadline=None, max_examples=50)
def test_the_threshold_is_the_conformal_quantile(count, rate, seed):
    scores = np.random.default_rng(seed).random(count).astype(np.float32)
    above = (scores >= calibration.threshold(scores, rate)).sum()
    assert above <= (count + 1) * rate
    assert above >= (count + 1) * rate - 2


def test_new_good_images_reach_the_threshold_at_most_at_the_rate():
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(400):
        threshold = calibration.threshold(rng.gamma(3.0, size=60).astype(np.float32), 0.05)
        rates.append((rng.gamma(3.0, size=500) >= threshold).mean())
    assert np.mean(rates) <= 0.05


def test_too_few_images_are_refused_with_the_smallest_possible_rate():
    with pytest.raises(SetupError, match=r"20 good images are too few.*it takes 99.*0\.048 or more"):
        calibration.threshold(np.arange(20, dtype=np.float32), 0.01)
    calibration.threshold(np.arange(20, dtype=np.float32), 0.048)


@pytest.fixture
def saved_bank(tmp_path):
    """The folder of a saved bank, its features and its manifest."""
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


def test_a_saved_bank_is_loaded_and_searched(saved_bank):
    folder, features, manifest = saved_bank
    bank = store.load(folder)
    assert bank.manifest == manifest
    assert np.array_equal(bank.search.features, features)
    assert not bank.distances(features).all().any()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["brick"]


def test_a_new_bank_replaces_all_files_of_the_old_one(saved_bank):
    folder, _, manifest = saved_bank
    features = np.ones((3, 8), np.float32)
    index_bytes = exact_search.encode_index(features)
    changes = {"patches": 3, "index_sha256": store.digest(index_bytes)}
    store.save(folder, index_bytes, manifest.model_copy(update=changes))
    assert store.load(folder).search.features.shape == (3, 8)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["brick"]


def test_faiss_reads_the_index_file(saved_bank):
    folder, features, _ = saved_bank
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
def test_a_damaged_bank_is_refused_with_advice(saved_bank, damage, text):
    folder = saved_bank[0]
    damage(folder)
    with pytest.raises(SetupError) as caught:
        store.load(folder)
    assert text in str(caught.value)
    assert "patchline fit --category brick" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_features_that_are_not_finite_are_refused(saved_bank):
    folder, features, _ = saved_bank
    features[3, 3] = np.nan
    index_bytes = exact_search.encode_index(features)
    (folder / store.INDEX_FILE).write_bytes(index_bytes)
    edit_manifest(folder, index_sha256=store.digest(index_bytes))
    with pytest.raises(SetupError, match="not finite"):
        store.load(folder)


SAVE_REPEATEDLY = """
import itertools
import sys
from pathlib import Path
from patchline.banks import store
from patchline.inspection import memory_bank
folder, index = Path(sys.argv[1]), Path(sys.argv[1], store.INDEX_FILE).read_bytes()
manifest = memory_bank.BankManifest.model_validate_json((folder / store.MANIFEST_FILE).read_bytes())
print("saving", flush=True)
for seed in itertools.count(1):
    store.save(folder, index, manifest.model_copy(update={"seed": seed}))
"""


def test_a_killed_fit_leaves_a_complete_bank(saved_bank):
    folder = saved_bank[0]
    rng = np.random.default_rng(3)
    for _ in range(8):
        command = [sys.executable, "-c", SAVE_REPEATEDLY, str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=end_with_parent())
        try:
            assert process.stdout.readline() == b"saving\n"
            threading.Event().wait(rng.uniform(0.0, 0.05))
        finally:
            process.kill()
            process.communicate()
        store.load(folder)


def test_without_an_exchange_the_old_folder_is_moved_away(saved_bank, monkeypatch):
    folder = saved_bank[0]
    monkeypatch.setattr(replace_folder, "_exchange", lambda *_: False)
    new_folder = folder.with_name("new_folder")
    new_folder.mkdir()
    (new_folder / "new").touch()
    replace_folder.replace_folder(new_folder, folder)
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
