import shutil
from pathlib import Path

import pytest

from patchline.devices import backbone, loading, model_manifest
from patchline.models import atc
from patchline.protocol.errors import SetupError

NAME = "efficientnet_lite0"


def test_a_model_that_the_folder_does_not_hold_comes_from_the_package(tmp_path):
    assert model_manifest.locate(tmp_path / "missing", NAME) == model_manifest.PACKAGED
    assert loading.load(tmp_path / "missing", NAME, 64, backbone.CPU, streams=1).grid == (8, 8)


def test_a_model_of_the_folder_comes_before_that_of_the_package(tmp_path):
    shutil.copy(Path("models") / f"{NAME}.json", tmp_path)
    assert model_manifest.locate(tmp_path, NAME) == tmp_path
    with pytest.raises(SetupError, match=rf"{tmp_path}/{NAME}.onnx: cannot be read"):
        loading.load(tmp_path, NAME, 64, backbone.CPU, streams=1)


def test_a_model_that_is_nowhere_is_missing_from_the_folder(tmp_path):
    with pytest.raises(SetupError, match=f"{tmp_path}/other.json"):
        model_manifest.read(tmp_path, "other")


def test_the_om_of_a_packaged_model_lies_beside_a_copy_of_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    command = atc.compile_om(tmp_path / "models", NAME, 256, None, "Ascend310")
    assert str(tmp_path / "models" / f"{NAME}.onnx") in command
    assert loading.load(tmp_path / "models", NAME, 64, backbone.CPU, streams=1).grid == (8, 8)


def test_a_models_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "models").write_text("a file")
    with pytest.raises(SetupError, match="cannot be copied here"):
        atc.compile_om(tmp_path / "models", NAME, 256, None, "Ascend310")


def test_a_wrong_size_copies_nothing(tmp_path):
    with pytest.raises(SetupError, match="--side"):
        atc.compile_om(tmp_path / "models", NAME, None, None, "Ascend310")
    assert not (tmp_path / "models").exists()


def test_a_name_that_no_file_can_have_is_one_line(tmp_path):
    with pytest.raises(SetupError, match="cannot be read"):
        model_manifest.read(tmp_path, "n" * 300)
