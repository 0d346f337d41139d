import os
import pickle
import struct
from types import SimpleNamespace

import faiss
import numpy as np
import pytest

from patchline.banks import import_bank, store
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
    path = tmp_path / import_bank.PARAMETERS
    path.write_bytes(pickle.dumps(PATCHCORE_INSPECTION | changes))
    return path


def test_an_index_of_patchcore_inspection_with_the_same_features_is_accepted(tmp_path):
    import_bank.require_same_features(write_parameters(tmp_path), RECIPE)


@pytest.mark.parametrize(
    "changes",
    [
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

    path = tmp_path / import_bank.PARAMETERS
    path.write_bytes(pickle.dumps({"layers_to_extract_from": Malicious()}))
    with pytest.raises(SetupError, match="it imports"):
        import_bank.require_same_features(path, RECIPE)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [b"", b"junk", pickle.dumps([1, 2]), pickle.dumps(PATCHCORE_INSPECTION)[:-20]])
def test_a_file_that_is_no_pickle_of_parameters_is_refused(tmp_path, content):
    path = tmp_path / import_bank.PARAMETERS
    path.write_bytes(content)
    with pytest.raises(SetupError):
        import_bank.require_same_features(path, RECIPE)
