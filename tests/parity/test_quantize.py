"""A quantised backbone gives nearly the features and decisions of its base. Needs nncf."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from patchline import config
from patchline.banks import fit, serving, store
from patchline.devices import backbone, loading, model_manifest, openvino_backbone
from patchline.evaluation import evaluate
from patchline.models import quantize
from patchline.operations import doctor
from patchline.protocol.errors import SetupError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("nncf") is None, reason="needs the extra `quantize`")
QUANTIZED = "efficientnet_lite0_brick_int8"


@pytest.fixture(scope="module")
def settings(tmp_path_factory, plant):
    folder = tmp_path_factory.mktemp("quantized")
    shutil.copytree(plant / "models", folder / "models")
    (folder / "config.yaml").write_text((plant / "config.yaml").read_text())
    return config.load(folder / "config.yaml")


@pytest.fixture(scope="module")
def quantized(settings, texture_folder):
    manifest, difference = quantize.quantize(settings, "brick", texture_folder / "train" / "good")
    assert 0.001 < difference < 0.4
    return manifest


def with_backbone(settings, **changes):
    category = settings.category("brick").model_copy(update={"backbone": QUANTIZED, **changes})
    return settings.model_copy(update={"categories": {"brick": category}})


def test_the_manifest_names_the_base_and_the_quantised_model(settings, quantized):
    assert quantized == model_manifest.read(settings.paths.models, QUANTIZED)
    assert (quantized.name, quantized.precision, quantized.side, quantized.input) == (
        QUANTIZED,
        "int8",
        128,
        "uint8_nhwc",
    )
    assert quantized.made_by.startswith("patchline quantize of efficientnet_lite0, nncf ")
    assert quantized.licence == "Apache-2.0"


def test_the_features_are_near_those_of_the_base(settings, quantized, texture_folder):
    images = np.stack([cv2.imread(str(path)) for path in sorted((texture_folder / "test" / "good").iterdir())])
    exact = loading.load(settings.paths.models, "efficientnet_lite0", 128, backbone.CPU, streams=1).extract(images)
    quantized_features = loading.load(settings.paths.models, QUANTIZED, 128, backbone.CPU, streams=1).extract(images)
    assert exact.shape == quantized_features.shape
    assert np.corrcoef(exact.ravel(), quantized_features.ravel())[0, 1] > 0.9


def test_a_category_with_the_quantised_backbone_finds_scratches(settings, quantized, texture_folder, tmp_path):
    settings = with_backbone(settings)
    bank = fit.fit(settings, "brick", texture_folder / "train" / "good", seed=0)
    assert (bank.precision, bank.backbone) == ("int8", QUANTIZED)
    loader = serving.Loader(settings, backbone.CPU, streams=1)
    report = evaluate.evaluate(loader, "brick", texture_folder, tmp_path)
    assert report.instance_auroc_topk10 > 0.95
    assert (report.ran_on.precision, report.ran_on.model_sha256) == ("int8", quantized.sha256)
    assert serving.load(settings, ["brick"], backbone.CPU, streams=1)["brick"].backbone.precision == "int8"
    assert store.load(settings.paths.memory_banks / "brick").manifest == bank


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "bf16"}, "is made for int8, and the category asks for bf16"),
        ({"imagesize": 96, "resize": 128}, "takes images with sides of 128, not 96"),
    ],
)
def test_another_precision_or_size_is_refused(settings, quantized, texture_folder, changes, message):
    with pytest.raises(SetupError, match=message):
        fit.fit(with_backbone(settings, **changes), "brick", texture_folder / "train" / "good", seed=0)


def test_a_quantised_backbone_cannot_be_quantised_again(settings, quantized, texture_folder):
    with pytest.raises(SetupError, match="quantised already"):
        quantize.quantize(with_backbone(settings), "brick", texture_folder / "train" / "good")


def test_other_weights_for_its_graph_are_refused(settings, quantized):
    weights = settings.paths.models / Path(quantized.file).with_suffix(".bin")
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(SetupError, match=r"is not the model that efficientnet_lite0_brick_int8\.json describes"):
        loading.load(settings.paths.models, QUANTIZED, 128, backbone.CPU, streams=1)
    weights.unlink()
    with pytest.raises(SetupError, match=r"brick_int8\.bin: cannot be read"):
        loading.load(settings.paths.models, QUANTIZED, 128, backbone.CPU, streams=1)
    weights.write_bytes(content)


def test_a_new_model_leaves_the_mapped_files_of_a_running_worker_alone(settings, quantized, tmp_path):
    base = model_manifest.read(settings.paths.models, "efficientnet_lite0")
    graph = openvino_backbone.read_graph(settings.paths.models / base.file, base, 128)
    path = tmp_path / quantized.file
    for suffix in (".xml", ".bin"):
        shutil.copy((settings.paths.models / quantized.file).with_suffix(suffix), path.with_suffix(suffix))
    before = path.with_suffix(".bin").read_bytes()
    with path.with_suffix(".bin").open("rb") as mapped:
        openvino_backbone.save_graph(graph, path)
        assert mapped.read() == before
    assert path.with_suffix(".bin").read_bytes() != before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([quantized.file, path.with_suffix(".bin").name])


def test_without_nncf_the_error_names_the_extra(settings, texture_folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nncf", None)
    with pytest.raises(SetupError, match=r"pip install 'patchline\[quantize\]'"):
        quantize.quantize(settings, "brick", texture_folder / "train" / "good")


def test_a_quantised_model_has_a_probe_of_its_own(settings, quantized):
    base = model_manifest.read(settings.paths.models, "efficientnet_lite0")
    assert list(quantized.probes) == [128]
    assert quantized.probes[128] != base.probes[128]


@pytest.mark.skipif("avx512_vnni" not in doctor.instructions(), reason="needs VNNI, to be compared with its lack")
def test_a_cpu_without_vnni_refuses_a_model_that_was_quantised_with_it(settings, quantized):
    code = (
        "from pathlib import Path; from patchline.devices import backbone, loading; "
        f"loading.load(Path({str(settings.paths.models)!r}), {QUANTIZED!r}, 128, backbone.CPU, streams=1)"
    )
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert "has no VNNI; quantize it on the machine that serves" in process.stderr
