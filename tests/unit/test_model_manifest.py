import shutil
from pathlib import Path

import pytest

from patchline.devices import backbone, loading, model_manifest
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


def test_a_name_that_no_file_can_have_is_one_line(tmp_path):
    with pytest.raises(SetupError, match="cannot be read"):
        model_manifest.read(tmp_path, "n" * 300)
