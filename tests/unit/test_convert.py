import ast
import hashlib
import sys
from pathlib import Path

import pytest

from patchline.devices import model_manifest
from patchline.devices.model_manifest import ModelManifest
from patchline.models import convert
from patchline.protocol.errors import SetupError


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
