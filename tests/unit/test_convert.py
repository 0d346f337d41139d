import ast
import hashlib
import os
import shlex
import sys
from pathlib import Path

import pytest

from patchline.devices import model_manifest
from patchline.devices.model_manifest import ModelManifest
from patchline.models import atc, convert
from patchline.protocol.errors import SetupError

STANDIN = Path(__file__).parents[1] / "standin"


def write_model(folder, name="wideresnet101_224_layer2", side=224):
    (folder / f"{name}.onnx").write_bytes(b"model")
    manifest = ModelManifest(
        name=name,
        file=f"{name}.onnx",
        sha256=hashlib.sha256(b"model").hexdigest(),
        layer="layer2",
        stride=8,
        dim=512,
        side=side,
        input="float32_nchw",
        mean=convert.IMAGENET_MEAN,
        std=convert.IMAGENET_STD,
        pools=True,
        rim=0.43,
        precision="bf16",
        weights="w",
        weights_sha256="0" * 64,
        licence="BSD-3-Clause",
        made_by="a test",
    )
    model_manifest.write(folder, manifest)
    return manifest


def test_a_downloaded_file_is_checked_against_the_hash_in_its_name(tmp_path):
    content = b"weights"
    digest = hashlib.sha256(content).hexdigest()
    (tmp_path / "source").write_bytes(content)
    address = (tmp_path / "source").as_uri()
    assert convert.download(address, tmp_path / f"net-{digest[:8]}.pth").read_bytes() == content
    with pytest.raises(SetupError, match=f"begins {digest[:8]}, expected 32ee1156; the file was deleted"):
        convert.download(address, tmp_path / "net-32ee1156.pth")
    assert not (tmp_path / "net-32ee1156.pth").exists()


def test_a_failed_download_is_reported_with_advice(tmp_path):
    with pytest.raises(SetupError, match="pass it with --weights"):
        convert.download((tmp_path / "missing").as_uri(), tmp_path / "net-32ee1156.pth")


def test_each_of_the_four_models_has_its_own_output_name(tmp_path):
    outputs = set()
    for side, layer in convert.REFERENCE_MODELS:
        manifest = write_model(tmp_path, f"wideresnet101_{side}_{layer}", side)
        command = atc.command_line(tmp_path, manifest, side, None, "Ascend310")
        outputs.add(next(word for word in command if word.startswith("--output=")))
        assert f"--input_shape=images:1,3,{side},{side}" in command
        assert "--output_type=FP16" in command
        assert "--soc_version=Ascend310" in command
    assert len(outputs) == 4


def test_without_atc_the_command_is_printed_and_the_aipp_file_written(tmp_path, monkeypatch):
    write_model(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    text = atc.compile_om(tmp_path, "wideresnet101_224_layer2", None, None, "Ascend310")
    assert shlex.split(text.splitlines()[1])[:2] == ["atc", "--framework=5"]
    aipp = (tmp_path / "wideresnet101_224_layer2.aipp.cfg").read_text()
    assert "min_chn_0: 123.675" in aipp
    assert "var_reci_chn_0: 0.0171247538316637" in aipp
    assert "src_image_size_w: 224" in aipp


def test_with_atc_the_om_is_recorded_in_the_manifest(tmp_path, monkeypatch):
    write_model(tmp_path)
    monkeypatch.setenv("PATH", f"{STANDIN / 'bin'}:{os.environ['PATH']}")
    atc.compile_om(tmp_path, "wideresnet101_224_layer2", None, None, "Ascend310")
    om = model_manifest.read(tmp_path, "wideresnet101_224_layer2").om
    assert (om.file, om.soc_version) == ("wideresnet101_224_layer2.om", "Ascend310")


def test_an_air_is_converted_as_framework_1(tmp_path):
    command = atc.command_line(tmp_path, write_model(tmp_path), 224, tmp_path / "old.air", "Ascend310")
    assert "--framework=1" in command
    assert f"--model={tmp_path / 'old.air'}" in command
    assert "--input_shape=x:1,3,224,224" in command


def test_the_error_of_atc_is_reported(tmp_path, monkeypatch):
    write_model(tmp_path)
    monkeypatch.setenv("PATH", f"{STANDIN / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(SetupError, match=r"255.*E10001"):
        atc.compile_om(tmp_path, "wideresnet101_224_layer2", None, tmp_path / "missing.air", "Ascend310")


def test_a_model_for_one_size_refuses_another_size(tmp_path):
    write_model(tmp_path)
    with pytest.raises(SetupError, match="sides of 224"):
        atc.compile_om(tmp_path, "wideresnet101_224_layer2", 320, None, "Ascend310")


def test_a_manifest_that_normalises_twice_is_refused(tmp_path):
    manifest = write_model(tmp_path)
    with pytest.raises(ValueError, match="normalises itself"):
        ModelManifest.model_validate(manifest.model_dump() | {"input": "uint8_nhwc"})


def test_the_host_is_python_3_9_and_imports_only_the_standard_library_numpy_and_the_sdk():
    tree = ast.parse(Path("patchline/devices/mindx_host.py").read_text(), feature_version=(3, 9))
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module.split(".")[0])
    assert modules - set(sys.stdlib_module_names) == {"numpy", "StreamManagerApi", "MxpiDataType_pb2", "mindx"}
