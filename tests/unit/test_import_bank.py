import os
import pickle
import struct
from pathlib import Path
from types import SimpleNamespace

import faiss
import numpy as np
import pytest

from patchline.banks import import_bank, import_checks, store
from patchline.protocol.errors import SetupError

PATCHCORE_INSPECTION = {
    "backbone.name": "wideresnet101",
    "layers_to_extract_from": ["layer2"],
    "pretrain_embed_dimension": 512,
    "target_embed_dimension": 512,
    "patchsize": 3,
    "patchstride": 1,
    "input_shape": (3, 224, 224),
    "anomaly_scorer_num_nn": 1,
}
RECIPE = SimpleNamespace(
    model=SimpleNamespace(manifest=SimpleNamespace(name="wideresnet101_224_layer2", layer="layer2", dim=512)),
    category=SimpleNamespace(imagesize=224),
)


@pytest.fixture
def index(tmp_path):
    features = np.random.default_rng(0).standard_normal((40, 16)).astype(np.float32)
    path = tmp_path / store.INDEX_FILE
    index = faiss.IndexFlatL2(features.shape[1])
    index.add(features)
    faiss.write_index(index, str(path))
    return path, features


def test_an_index_of_faiss_is_read_without_faiss(index):
    path, features = index
    assert np.array_equal(store.read_features(path), features)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-4], "it is damaged"),
        (lambda content: content + b"\0", "it is damaged"),
        (lambda content: b"", "no IndexFlatL2"),
        (lambda content: b"IxFI" + content[4:], "no IndexFlatL2"),
        (lambda content: content[:4] + struct.pack("<i", -16) + content[8:], "it is damaged"),
        (lambda content: content[:8] + struct.pack("<q", 2**60) + content[16:], "it is damaged"),
        (lambda content: content[:-4] + struct.pack("<f", float("inf")), "not finite"),
    ],
)
def test_a_damaged_or_malicious_index_is_refused(index, damage, message):
    path, _ = index
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SetupError, match=message):
        store.read_features(path)


def test_another_kind_of_index_is_refused(tmp_path):
    path = tmp_path / "ip.faiss"
    index = faiss.IndexFlatIP(8)
    index.add(np.ones((3, 8), np.float32))
    faiss.write_index(index, str(path))
    with pytest.raises(SetupError, match="no IndexFlatL2"):
        store.read_features(path)


def write_parameters(tmp_path, **changes):
    path = tmp_path / import_checks.PARAMETERS
    path.write_bytes(pickle.dumps(PATCHCORE_INSPECTION | changes))
    return path


def test_an_index_of_patchcore_inspection_with_the_same_features_is_accepted(tmp_path):
    import_bank.require_same_features(write_parameters(tmp_path), RECIPE)


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone.name": "wideresnet50"},
        {"backbone.name": "wide"},
        {"layers_to_extract_from": ["layer2", "layer3"]},
        {"target_embed_dimension": 1024},
        {"patchsize": 5},
        {"input_shape": (3, 320, 320)},
    ],
)
def test_other_features_are_refused_with_the_parameter(tmp_path, changes):
    with pytest.raises(SetupError, match=next(iter(changes))):
        import_bank.require_same_features(write_parameters(tmp_path, **changes), RECIPE)


def test_no_code_in_a_pickle_is_executed(tmp_path):
    class Malicious:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/owned",)

    path = tmp_path / import_checks.PARAMETERS
    path.write_bytes(pickle.dumps({"layers_to_extract_from": Malicious()}))
    with pytest.raises(SetupError, match="it imports"):
        import_bank.require_same_features(path, RECIPE)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [b"", b"junk", pickle.dumps([1, 2]), pickle.dumps(PATCHCORE_INSPECTION)[:-20]])
def test_a_file_that_is_no_pickle_of_parameters_is_refused(tmp_path, content):
    path = tmp_path / import_checks.PARAMETERS
    path.write_bytes(content)
    with pytest.raises(SetupError):
        import_bank.require_same_features(path, RECIPE)


@pytest.mark.parametrize("as_folder", [True, False])
def test_a_member_of_an_ensemble_is_refused(tmp_path, as_folder):
    for number in (1, 2):
        (tmp_path / f"Ensemble-{number}-2_{store.INDEX_FILE}").touch()
    source = tmp_path if as_folder else tmp_path / f"Ensemble-1-2_{store.INDEX_FILE}"
    with pytest.raises(SetupError, match="is member 1 of an ensemble of 2"):
        import_checks.find_index(source)


def test_the_parameters_of_an_index_have_its_prefix(tmp_path):
    assert import_checks.find_index(tmp_path) == (tmp_path / store.INDEX_FILE, tmp_path / import_checks.PARAMETERS)
    index, parameters = import_checks.find_index(tmp_path / f"bottle_{store.INDEX_FILE}")
    assert (index.name, parameters.name) == (f"bottle_{store.INDEX_FILE}", f"bottle_{import_checks.PARAMETERS}")
    assert import_checks.find_index(tmp_path / "my.faiss")[1] == tmp_path / import_checks.PARAMETERS


def features(seed, images=10, patches=100, dim=32, network=0):
    """Features with means and spreads of a network, float32 [images, patches, dim]."""
    means = np.random.default_rng(network).gamma(1.0, size=dim)
    spread = np.random.default_rng(seed).standard_normal((images, patches, dim))
    return (means * np.exp(0.3 * spread)).astype(np.float32)


def check(bank, good):
    checked = import_checks.FeatureCheck(bank)
    paths = [Path(f"{number}.png") for number in range(len(good))]
    assert all((distances >= 0).all() for distances in checked.distances(paths, good))
    return checked


def test_new_images_with_the_features_of_the_network_are_accepted():
    bank = features(0).reshape(-1, 32)[::7].copy()
    checked = check(bank, features(1))
    checked.require_same_network(Path("index"), "network")
    checked.require_new_images(Path("index"))


@pytest.mark.parametrize("scale", [1, 0.2, 5])
def test_a_bank_of_another_network_with_as_many_channels_is_refused(scale):
    bank = features(0, network=1).reshape(-1, 32)[::7].copy()
    with pytest.raises(SetupError, match="another network than efficientnet"):
        check(bank, features(1) * np.float32(scale)).require_same_network(Path("index"), "efficientnet")


def test_a_bank_whose_features_have_another_scale_is_refused():
    bank = features(0).reshape(-1, 32)[::7].copy()
    with pytest.raises(SetupError, match="another network"):
        check(bank, features(1) * np.float32(5)).require_same_network(Path("index"), "efficientnet")


def test_images_that_the_bank_was_made_from_are_refused_with_a_name():
    made_from = features(0)
    bank = made_from.reshape(-1, 32)[::7].copy()
    with pytest.raises(SetupError, match=r"rows are patches of 10 of the good images, such as 0\.png"):
        check(bank, made_from).require_new_images(Path("index"))
    one_old = np.concatenate([features(1)[:9], made_from[4:5] * np.float32(1.0005)])  # as another precision computes it
    with pytest.raises(SetupError, match=r"of 1 of the good images, such as 9\.png"):
        check(bank, one_old).require_new_images(Path("index"))


def test_a_background_that_all_images_share_is_no_sign_of_that():
    bank, good = features(0).reshape(-1, 32)[::7].copy(), features(1)
    bank[:5] = good[:, :5] = np.arange(5)[:, None] * 0.1
    check(bank, good).require_new_images(Path("index"))
