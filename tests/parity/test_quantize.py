"""A backbone in 8-bit integers: fitted and served, it judges as the one that it was made of."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("nncf", reason="the extra `quantize` is not installed")

from patchline import config
from patchline.banks import fit, serving, store
from patchline.devices import backbone, loading, model_manifest, openvino_backbone
from patchline.evaluation import evaluate
from patchline.models import quantize
from patchline.protocol.errors import SetupError

QUANTIZED = "efficientnet_lite0_brick_int8"


@pytest.fixture(scope="module")
def settings(tmp_path_factory, plant):
    folder = tmp_path_factory.mktemp("quantized")
    shutil.copytree(plant / "models", folder / "models")
    (folder / "config.yaml").write_text((plant / "config.yaml").read_text())
    return config.load(folder / "config.yaml")


@pytest.fixture(scope="module")
def made(settings, texture_folder):
    manifest, difference = quantize.quantize(settings, "brick", texture_folder / "train" / "good")
    assert 0.001 < difference < 0.4
    return manifest


def with_backbone(settings, **changes):
    recipe = settings.category("brick").model_copy(update={"backbone": QUANTIZED, **changes})
    return settings.model_copy(update={"categories": {"brick": recipe}})


def test_its_manifest_says_what_it_is_and_what_it_was_made_of(settings, made):
    assert made == model_manifest.read(settings.paths.models, QUANTIZED)
    assert (made.name, made.precision, made.side, made.input) == (QUANTIZED, "int8", 128, "uint8_nhwc")
    assert made.made_by.startswith("patchline quantize of efficientnet_lite0, nncf ")
    assert made.licence == "Apache-2.0"


def test_on_images_like_those_it_has_seen_its_features_are_near_those_of_the_other(settings, made, texture_folder):
    images = np.stack([cv2.imread(str(path)) for path in sorted((texture_folder / "test" / "good").iterdir())])
    exact = loading.load(settings.paths.models, "efficientnet_lite0", 128, backbone.CPU, streams=1).extract(images)
    rounded = loading.load(settings.paths.models, QUANTIZED, 128, backbone.CPU, streams=1).extract(images)
    assert exact.shape == rounded.shape
    assert np.corrcoef(exact.ravel(), rounded.ravel())[0, 1] > 0.9


def test_fitted_with_it_a_category_finds_its_scratches(settings, made, texture_folder, tmp_path):
    own = with_backbone(settings)
    bank = fit.fit(own, "brick", texture_folder / "train" / "good", seed=0)
    assert (bank.precision, bank.backbone) == ("int8", QUANTIZED)
    assert evaluate.evaluate(own, "brick", texture_folder, tmp_path).instance_auroc_topk10 > 0.95
    assert serving.load(own, ["brick"], backbone.CPU, streams=1)["brick"].backbone.precision == "int8"
    assert store.load(own.paths.memory_banks / "brick").manifest == bank


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"precision": "bf16"}, "is made for int8, and the category asks for bf16"),
        ({"imagesize": 96, "resize": 128}, "takes images with sides of 128, not 96"),
    ],
)
def test_it_serves_one_precision_and_one_size(settings, made, texture_folder, wanted, sentence):
    with pytest.raises(SetupError, match=sentence):
        fit.fit(with_backbone(settings, **wanted), "brick", texture_folder / "train" / "good", seed=0)


def test_it_is_not_quantised_again(settings, made, texture_folder):
    with pytest.raises(SetupError, match="quantised already"):
        quantize.quantize(with_backbone(settings), "brick", texture_folder / "train" / "good")


def test_other_weights_beside_its_graph_are_refused(settings, made):
    weights = settings.paths.models / Path(made.file).with_suffix(".bin")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(SetupError, match=r"is not the model that efficientnet_lite0_brick_int8\.json describes"):
        loading.load(settings.paths.models, QUANTIZED, 128, backbone.CPU, streams=1)
    weights.unlink()
    with pytest.raises(SetupError, match=r"brick_int8\.bin: cannot be read"):
        loading.load(settings.paths.models, QUANTIZED, 128, backbone.CPU, streams=1)
    weights.write_bytes(whole)


def test_a_model_is_written_anew_without_touching_what_a_running_worker_has_mapped(settings, made, tmp_path):
    base = model_manifest.read(settings.paths.models, "efficientnet_lite0")
    graph = openvino_backbone.read_graph(settings.paths.models / base.file, base, 128)
    path = tmp_path / made.file
    for suffix in (".xml", ".bin"):
        shutil.copy((settings.paths.models / made.file).with_suffix(suffix), path.with_suffix(suffix))
    before = path.with_suffix(".bin").read_bytes()
    with path.with_suffix(".bin").open("rb") as mapped:
        openvino_backbone.save_graph(graph, path)
        assert mapped.read() == before
    assert path.with_suffix(".bin").read_bytes() != before
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([made.file, path.with_suffix(".bin").name])


def test_without_nncf_it_says_what_to_install(settings, texture_folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nncf", None)
    with pytest.raises(SetupError, match=r"pip install '\.\[quantize\]'"):
        quantize.quantize(settings, "brick", texture_folder / "train" / "good")
