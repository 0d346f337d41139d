"""A model is compared with the probe of its manifest when it is loaded, and a mistake is named."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from bench import altered_models, random_network
from patchline.cli.main import app
from patchline.devices import backbone, loading, model_manifest, probe, probe_check
from patchline.models import probes
from patchline.protocol.errors import SetupError
from tests.conftest import CONFIG
from tests.own_logs import capture_own_logs

NAME = "efficientnet_lite0"
SMALL = random_network.Network(layers=1, side=64)
MISTAKES = {
    "none": "the image is not normalised",
    "only 1/255": "divided by 255, but not normalised",
    "twice": "normalised twice",
    "no mean": "the mean is not subtracted",
    "no std": "not divided by the standard deviation",
    "mean and std of 0 to 1": "those of pixels from 0 to 1",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with a small ResNet that takes normalised numbers, and with the default backbone."""
    folder = tmp_path_factory.mktemp("models")
    random_network.write(folder, SMALL)
    model_manifest.copy_packaged(folder, NAME)
    return folder


def compiled(models, name=NAME, precision="f32", **changes):
    manifest = model_manifest.read(models, name).model_copy(update=changes)
    return loading.compile_model(models / manifest.file, manifest, 64, backbone.CPU, 1, precision)


@pytest.fixture
def old_models(tmp_path):
    """A folder with the default backbone and the manifest of an earlier build, which has no probe."""
    models = tmp_path / "models"
    model_manifest.copy_packaged(models, NAME)
    path = models / f"{NAME}.json"
    manifest = json.loads(path.read_text())
    del manifest["probes"]
    path.write_text(json.dumps(manifest))
    return models


@pytest.mark.parametrize(
    ("side", "digest"), [(64, "a5eba0289fc05526"), (224, "4c6ad921d600959b"), (320, "37644d7563042c3e")]
)
def test_the_image_of_the_probe_never_changes(side, digest):
    image = probe.image(side)
    assert (image.shape, image.dtype) == ((1, side, side, 3), np.uint8)
    assert hashlib.sha256(image.tobytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize("name", [NAME, SMALL.name])
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_a_right_model_is_served_in_each_precision(models, name, precision):
    loading.load(models, name, 64, backbone.CPU, 1, precision).close()


@pytest.mark.parametrize("name", [NAME, SMALL.name])
def test_a_model_that_rounds_like_float16_is_served(models, tmp_path, name):
    manifest = model_manifest.read(models, name)
    rounded = altered_models.rounded_to_f16(tmp_path, models / manifest.file, manifest, 64)
    probe_check.require_match(rounded, Path("model"))
    assert 0 < manifest.probes[64].distance(probe_check.measure(rounded)) < probe_check.TOLERANCES["f16"] / 3


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_normalisation_is_refused_by_its_name(models, mistake):
    right = model_manifest.read(models, SMALL.name)
    mean, std = probe.normalisation_mistakes(right.mean, right.std)[mistake]
    wrong = compiled(models, SMALL.name, "bf16", mean=mean, std=std)
    with pytest.raises(SetupError, match=f"probably .*{MISTAKES[mistake]}"):
        probe_check.require_match(wrong, Path("model"))


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("precision", ["f32", "bf16", "f16"])
def test_a_wrong_normalisation_of_a_model_that_normalises_by_itself_is_refused_by_its_name(
    models, tmp_path, mistake, precision
):
    manifest = model_manifest.read(models, NAME)
    right = (manifest.inner_mean, manifest.inner_std)
    path, wrong = models / manifest.file, probe.normalisation_mistakes(*right)[mistake]
    model = altered_models.wrongly_normalised(tmp_path, path, manifest, 64, right, wrong, precision)
    with pytest.raises(SetupError, match=f"probably .*{MISTAKES[mistake]}"):
        probe_check.require_match(model, Path("model"))


@pytest.mark.parametrize("name", [NAME, SMALL.name])
def test_swapped_colours_a_wrong_layout_and_a_missing_3x3_mean_are_refused_by_name(models, tmp_path, name):
    manifest, right = model_manifest.read(models, name), compiled(models, name)
    wrong = {
        "red and blue are swapped": altered_models.swapped_colours(right),
        "its output is NCHW and is read as NHWC": altered_models.nchw_read_as_nhwc(right),
        "the 3x3 mean is missing": altered_models.without_pooling(tmp_path, models / manifest.file, manifest, 64),
    }
    for mistake, model in wrong.items():
        with pytest.raises(SetupError, match=f"probably {mistake}"):
            probe_check.require_match(model, Path("model"))


def test_features_that_are_not_finite_are_refused(models):
    broken = altered_models.Altered(compiled(models), features=lambda features: features * np.float32(np.nan))
    with pytest.raises(SetupError, match="not finite, as after a missing normalisation in f16"):
        probe_check.require_match(broken, Path("model"))


def test_other_weights_are_refused(models):
    wrong = altered_models.Altered(compiled(models), features=lambda features: features[..., ::-1])
    with pytest.raises(SetupError, match="the normalisation, the weights or another step differ"):
        probe_check.require_match(wrong, Path("model"))


def test_the_default_backbone_has_probes_for_the_usual_sides():
    manifest = model_manifest.read(Path("models"), NAME)
    assert list(manifest.probes) == probes.usual_sides(manifest) == list(range(64, 513, 32))


def test_a_manifest_of_an_earlier_build_is_served_and_the_log_names_the_command(old_models):
    with capture_own_logs() as logs:
        loading.load(old_models, NAME, 64, backbone.CPU, 1).close()
    assert [line["add"] for line in logs] == [f"patchline probe {NAME} --side 64"]


def test_probe_adds_the_probes_that_a_manifest_lacks(old_models):
    (old_models.parent / "config.yaml").write_text(CONFIG)
    options = ["--side", "64", "--side", "96", "--config", str(old_models.parent / "config.yaml")]
    result = CliRunner().invoke(app, ["probe", NAME, *options], catch_exceptions=False)
    assert "probes for sides of 64, 96 pixels" in result.output
    added = model_manifest.read(old_models, NAME).probes
    assert list(added) == [64, 96]
    assert added[64].distance(model_manifest.read(Path("models"), NAME).probes[64]) < 0.001


def test_probe_refuses_a_model_that_does_not_match_what_its_manifest_has(old_models):
    manifest = model_manifest.read(old_models, NAME)
    model_manifest.write(old_models, manifest.model_copy(update={"rim": 0.9}))
    with pytest.raises(SetupError, match="the corner of a constant image"):
        probes.add(old_models, NAME, [64])
    assert not model_manifest.read(old_models, NAME).probes


def test_a_manifest_without_rim_and_probe_is_refused_with_the_command(old_models):
    manifest = model_manifest.read(old_models, NAME)
    model_manifest.write(old_models, manifest.model_copy(update={"rim": None}))
    with pytest.raises(SetupError, match=f"add it with: patchline probe {NAME} --side 64"):
        loading.load(old_models, NAME, 64, backbone.CPU, 1)
    probes.add(old_models, NAME, [64])
    loading.load(old_models, NAME, 64, backbone.CPU, 1).close()


def test_a_manifest_has_a_line_for_each_row_of_numbers(old_models):
    manifest = model_manifest.read(Path("models"), NAME)
    model_manifest.write(old_models, manifest)
    assert model_manifest.read(old_models, NAME) == manifest
    lines = (old_models / f"{NAME}.json").read_text().splitlines()
    assert sum('"channels": [' in line and line.endswith("],") for line in lines) == len(manifest.probes)
