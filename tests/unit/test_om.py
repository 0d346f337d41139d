"""`patchline om`: the static model for atc, its operators, the command line, and the manifest of an `.om`."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from patchline.cli.main import app
from patchline.devices import backbone, loading, model_manifest, om_manifest
from patchline.models import adopt, atc, atc_operators, convert, onnx_graph, static_onnx
from patchline.models.onnx_graph import Node
from patchline.protocol.errors import SetupError
from tests import narrow_resnet
from tests.standin import installation

STANDIN = Path(__file__).parents[1] / "standin"
DEFAULT = "efficientnet_lite0"
NAME = "wideresnet101_224_layer2"
CANN = atc_operators.release("5.0.4")
FOUR = [f"wideresnet101_{side}_{layer}" for side, layer in convert.REFERENCE_MODELS]


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """A folder of the four models of the reference."""
    folder = tmp_path_factory.mktemp("models")
    for side, layer in convert.REFERENCE_MODELS:
        narrow_resnet.write(folder, side, layer)
    return folder


@pytest.fixture
def models(four, tmp_path):
    """A copy of the four models."""
    return Path(shutil.copytree(four, tmp_path / "models"))


@pytest.fixture
def without_atc(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")


@pytest.fixture
def with_atc(monkeypatch):
    """The atc of the stand-in."""
    monkeypatch.setenv("PATH", f"{STANDIN / 'bin'}:{os.environ['PATH']}")


def compile_om(models, name=NAME, side=None, air=None, out=None):
    return atc.compile_om(models, name, side, air, atc.Target(out or models))


def test_atc_runs_in_the_environment_of_the_set_env_script_of_cann(models, tmp_path, monkeypatch):
    assert shutil.which("atc") is None
    monkeypatch.setenv("PATCHLINE_ASCEND_SET_ENV", str(installation.install_cann(tmp_path)))
    assert compile_om(models).recorded
    monkeypatch.setenv("PATCHLINE_ASCEND_SET_ENV", str(tmp_path / "set_env.sh"))
    with pytest.raises(
        SetupError, match=r"PATCHLINE_ASCEND_SET_ENV: .*set_env\.sh: is not the absolute path of a file"
    ):
        compile_om(models)


def static_model(models, name=NAME, side=None):
    manifest = model_manifest.read(models, name)
    path = model_manifest.locate(models, name) / manifest.file
    return static_onnx.derive(path, manifest, side or manifest.side)


def run_atc(words, folder):
    """Run the command of a printed line, `atc` and its options, with the stand-in."""
    command = [sys.executable, str((STANDIN / "bin" / "atc").resolve()), *words[1:]]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("name", [*FOUR, DEFAULT])
def test_a_static_model_has_one_image_of_one_size_opset_11_and_no_computed_shapes(models, name):
    graph = static_model(models, name, 320 if name == DEFAULT else None)
    assert (graph.opset, graph.ir_version) == (11, 6)
    assert all(isinstance(size, int) for value in (*graph.inputs, *graph.outputs) for size in value.shape)
    assert graph.inputs[0].shape[0] == 1
    assert not {node.op for node in graph.nodes} & {"Shape", "Squeeze", "Gather"}
    assert list(atc_operators.problems(graph, CANN)) == []
    assert len({node.name for node in graph.nodes}) == len(graph.nodes)


@pytest.mark.parametrize(("name", "side"), [(NAME, 224), ("wideresnet101_320_layer3", 320), (DEFAULT, 96)])
def test_a_static_model_gives_the_features_of_its_source(models, tmp_path, name, side):
    manifest = model_manifest.read(models, name)
    static = tmp_path / "static.onnx"
    static.write_bytes(onnx_graph.encode(static_model(models, name, side)))
    image = np.random.default_rng(1).integers(0, 256, (1, side, side, 3), np.uint8)
    source = model_manifest.locate(models, name) / manifest.file
    expected, features = (
        loading.compile_model(path, manifest, side, backbone.CPU, 1, "f32").extract(image) for path in (source, static)
    )
    assert np.abs(features - expected).max() <= 1e-6 * np.abs(expected).max()


def test_a_static_model_that_computes_something_else_is_refused(models, monkeypatch, without_atc):
    derive = static_onnx.derive

    def without_relu(*arguments):
        graph = derive(*arguments)
        nodes = [replace(node, op="Sigmoid") if node.op == "Relu" else node for node in graph.nodes]
        return replace(graph, nodes=tuple(nodes))

    monkeypatch.setattr(static_onnx, "derive", without_relu)
    with pytest.raises(SetupError, match="its static form gives other features"):
        compile_om(models)
    assert not list(models.glob("*.atc.onnx"))
    assert not list(models.glob(".partial*"))


def test_the_dynamic_model_is_not_for_the_atc_of_cann_5_0_4_and_each_reason_is_named():
    graph = onnx_graph.decode((Path("models") / f"{DEFAULT}.onnx").read_bytes())
    found = list(atc_operators.problems(graph, CANN))
    assert found[:3] == ["opset 18 is not one of 9 to 13", "IR version 10 is above 7", "images has a dynamic shape"]
    for text in (
        "operator Resize is registered for opset 10 to 13 only",
        "operator Squeeze computes a shape",
        "operator Reshape has computed parameters",
    ):
        assert text in found


def test_an_operator_that_is_not_in_the_table_is_named(models, without_atc):
    graph = static_model(models)
    nodes = (*graph.nodes[:-1], replace(graph.nodes[-1], op="GridSample"))
    with pytest.raises(SetupError, match=r"x\.onnx: the ATC of CANN 5\.0\.4 cannot read it: operator GridSample"):
        atc_operators.require_readable("x.onnx", replace(graph, nodes=nodes), CANN)


def test_an_operator_without_a_rule_is_named(models):
    graph = narrow_resnet.graph(224, "layer2")
    nodes = (*graph.nodes[:-1], replace(graph.nodes[-1], outputs=("y",)), Node("Elu", "", ("y",), ("patches",)))
    path = models / f"{NAME}.onnx"
    path.write_bytes(onnx_graph.encode(replace(graph, nodes=nodes)))
    with pytest.raises(SetupError, match=r"operator Elu \(patches\) has no rule"):
        static_onnx.derive(path, model_manifest.read(models, NAME), 224)


def test_every_release_of_the_table_reads_the_static_models(models):
    graphs = [static_model(models, name) for name in FOUR] + [static_model(models, DEFAULT, 128)]
    for release in atc_operators.releases().values():
        assert [text for graph in graphs for text in atc_operators.problems(graph, release)] == []
    with pytest.raises(SetupError, match=r"CANN 3\.2 is not in the table of operators; it has 5\.0\.4"):
        atc_operators.release("3.2")


def test_om_all_prints_a_command_for_each_of_the_four_models_that_atc_accepts(models, tmp_path, without_atc):
    settings = tmp_path / "config.yaml"
    shutil.copy("config.yaml", settings)
    result = CliRunner().invoke(app, ["om", "--all", "--config", str(settings)], catch_exceptions=False)
    commands = [shlex.split(line) for line in result.stdout.splitlines() if line.startswith("atc --")]
    names = {word for command in commands for word in command if word.startswith("--output=")}
    assert names == {f"--output={name}_{name.split('_')[1]}" for name in FOUR} | {f"--output={DEFAULT}_256"}
    for command in commands:
        process = run_atc(command, models)
        assert process.returncode == 0, process.stderr
    for name in FOUR:
        assert compile_om(models, name).text.endswith(f"recorded in {name}_{name.split('_')[1]}.om.json")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"--model": f"{NAME}.onnx"}, "opset 18 is not supported"),
        ({"--input_shape": "images:1,3,320,320"}, "not an input images of 1,3,320,320"),
        ({"--input_format": "ND"}, "insert_op_conf needs its file and input_format NCHW"),
        ({"--soc_version": "Ascend910"}, "soc_version Ascend910 is invalid"),
    ],
)
def test_the_stand_in_refuses_what_atc_refuses(models, without_atc, change, error):
    command = shlex.split(compile_om(models).text.splitlines()[1])
    words = dict(word.split("=", 1) for word in command[1:]) | change
    process = run_atc(["atc", *(f"{key}={value}" for key, value in words.items())], models)
    assert process.returncode == 255
    assert error in process.stderr


@pytest.mark.parametrize(
    ("op", "error"), [("GridSample", "ai.onnx::11::GridSample"), ("Squeeze", "Squeeze makes the model dynamic")]
)
def test_the_stand_in_refuses_an_operator_that_the_table_lacks_or_a_dynamic_one(models, without_atc, op, error):
    command = shlex.split(compile_om(models).text.splitlines()[1])
    graph = static_model(models)
    nodes = (replace(graph.nodes[0], op=op), *graph.nodes[1:])
    (models / f"{NAME}_224.atc.onnx").write_bytes(onnx_graph.encode(replace(graph, nodes=nodes)))
    process = run_atc(command, models)
    assert (process.returncode, error in process.stderr) == (255, True)


def test_without_atc_the_command_is_printed_and_its_files_are_written(models, without_atc):
    text = compile_om(models).text
    assert shlex.split(text.splitlines()[1])[:2] == ["atc", "--framework=5"]
    aipp = (models / f"{NAME}_224.aipp.cfg").read_text()
    assert "min_chn_0: 123.675" in aipp
    assert "var_reci_chn_0: 0.0171247538316637" in aipp
    assert "src_image_size_w: 224" in aipp
    assert (models / f"{NAME}_224.atc.onnx").exists()


def test_the_printed_command_that_records_an_om_has_the_options_of_the_first_one(models, tmp_path, without_atc):
    other = tmp_path / "other"
    text = atc.compile_om(models, NAME, None, None, atc.Target(other, "Ascend310P3", "7.0.0")).text
    printed = re.search(r"run `(patchline om [^`]*)` here again", text)[1]
    assert printed == f"patchline om {NAME} --soc-version Ascend310P3 --cann 7.0.0 --out {other}"
    plain = compile_om(models).text
    assert re.search(r"run `(patchline om [^`]*)` here again", plain)[1] == f"patchline om {NAME}"


def test_with_atc_the_om_gets_a_manifest_of_its_own(models, with_atc):
    before = (models / f"{NAME}.json").read_bytes()
    assert compile_om(models).recorded
    om = om_manifest.read(models, model_manifest.read(models, NAME), 224)
    assert (om.file, om.soc_version, om.side) == (f"{NAME}_224.om", "Ascend310", 224)
    assert (om.input, om.output, om.opset) == ("uint8_nhwc", "patches", 11)
    assert om.source_sha256 == model_manifest.read(models, NAME).sha256
    assert om.aipp is not None
    assert (models / f"{NAME}.json").read_bytes() == before


def test_the_files_of_a_packaged_model_are_written_elsewhere_and_the_model_is_not_copied(tmp_path, with_atc):
    out = tmp_path / "out"
    atc.compile_om(tmp_path / "models", DEFAULT, 256, None, atc.Target(out))
    names = {path.name for path in out.iterdir()}
    assert names == {f"{DEFAULT}_256.{suffix}" for suffix in ("atc.onnx", "om", "om.json")}
    assert not (tmp_path / "models").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "models").write_text("a file")
    with pytest.raises(SetupError, match=r"models: cannot be written .* name a folder that can be written with --out"):
        compile_om(tmp_path / "models", DEFAULT, 256)


def test_a_wrong_size_writes_nothing(tmp_path, models):
    with pytest.raises(SetupError, match="--side"):
        compile_om(tmp_path / "missing", DEFAULT)
    assert not (tmp_path / "missing").exists()
    with pytest.raises(SetupError, match="sides of 224"):
        compile_om(models, side=320)


def test_an_air_is_converted_as_framework_1_and_its_features_are_nchw(models, tmp_path, with_atc):
    air = tmp_path / "old.air"
    air.write_bytes(onnx_graph.encode(narrow_resnet.nchw(narrow_resnet.graph(224, "layer2"))))
    assert compile_om(models, air=air).recorded
    om = om_manifest.read(models, model_manifest.read(models, NAME), 224)
    assert (om.output, om.opset, om.source_sha256) == ("nchw", None, None)
    options = json.loads((models / om.file).read_text())
    assert (options["framework"], options["model"], options["input_shape"]) == ("1", str(air), "x:1,3,224,224")
    with pytest.raises(SetupError, match="normalises by itself"):
        compile_om(models, DEFAULT, 256, air)


def test_the_error_of_atc_is_reported(models, with_atc):
    with pytest.raises(SetupError, match=r"255.*E10001"):
        compile_om(models, air=models / "missing.air")


def test_weights_in_other_files_are_refused_because_no_digest_covers_them(models, monkeypatch, without_atc):
    monkeypatch.setattr(model_manifest.onnx_file, "external_files", lambda content: {"weights.data"})
    with pytest.raises(SetupError, match=r"keeps weights in weights\.data"):
        compile_om(models)


def test_a_changed_source_is_refused(models, without_atc):
    path = models / f"{NAME}.onnx"
    path.write_bytes(path.read_bytes() + b"\x00")
    with pytest.raises(SetupError, match="its sha256 differs"):
        compile_om(models)


def change_model(models):
    """Convert the model again, with another result."""
    path = models / f"{NAME}.onnx"
    path.write_bytes(path.read_bytes() + b"\x12\x00")  # an empty name of a producer
    manifest = model_manifest.read(models, NAME)
    model_manifest.write(models, manifest.model_copy(update={"sha256": model_manifest.digest(path)}))


def change_manifest(models, **changes):
    path = models / f"{NAME}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_om(models, **changes):
    path = models / f"{NAME}_224.om.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_model, "compiled from another wideresnet101_224_layer2, which has changed since"),
        (lambda models: (models / f"{NAME}_224.om").write_text("foreign"), "its sha256 differs"),
        (lambda models: (models / f"{NAME}_224.om").unlink(), "cannot be read"),
        (lambda models: (models / f"{NAME}_224.om.json").unlink(), "has no .om for 224 x 224 images"),
        (lambda models: (models / f"{NAME}_224.om.json").write_text("{}"), "Field required"),
        (lambda models: change_om(models, side=320), "is for 320 x 320 images"),
        (lambda models: change_om(models, aipp=None), "normalises with another mean or std"),
        (lambda models: change_manifest(models, std=[1.0, 1.0, 1.0]), "normalises with another mean or std"),
        (
            lambda models: change_om(models, input="float32_nchw"),
            "normalises with another mean or std",
        ),
    ],
)
def test_a_stale_or_foreign_om_is_refused_in_one_line_with_the_command(models, with_atc, change, message):
    compile_om(models)
    change(models)
    with pytest.raises(SetupError, match=message) as refused:
        loading.load(models, NAME, 224, backbone.Device("ascend", 0), streams=1)
    assert "\n" not in str(refused.value)
    assert "patchline om wideresnet101_224_layer2 --side 224" in str(refused.value)


def test_an_om_of_an_earlier_build_is_refused_with_the_command_that_makes_it_anew(models, with_atc):
    record = {"file": f"{NAME}.om", "sha256": "0" * 64, "soc_version": "Ascend310"}
    change_manifest(models, om=record)
    with pytest.raises(SetupError, match=r"that of .* is of an earlier build.* patchline om"):
        loading.load(models, NAME, 224, backbone.Device("ascend", 0), streams=1)


def test_without_atc_a_new_om_is_recorded_and_a_stale_one_is_not(models, with_atc, monkeypatch):
    compile_om(models)
    (models / f"{NAME}_224.om.json").unlink()
    monkeypatch.setenv("PATH", "/nowhere")
    assert "recorded in" in compile_om(models).text  # it was compiled elsewhere and copied here
    assert compile_om(models).text.endswith("is up to date")
    change_model(models)
    assert "run there" in compile_om(models).text
    with pytest.raises(SetupError, match="has changed since"):
        om_manifest.read(models, model_manifest.read(models, NAME), 224)


def test_an_om_of_the_reference_is_adopted_with_its_layouts(models, tmp_path):
    file = tmp_path / f"{NAME}.om"
    file.write_bytes(b"an om")
    assert "adopted in wideresnet101_224_layer2_224.om.json" in adopt.adopt(models, NAME, None, file, "Ascend310")
    om = om_manifest.read(models, model_manifest.read(models, NAME), 224)
    assert (om.file, om.input, om.output, om.aipp) == (f"{NAME}.om", "float32_nchw", "nchw", None)
    with pytest.raises(SetupError, match="normalises by itself"):
        adopt.adopt(models, DEFAULT, 256, file, "Ascend310")
    with pytest.raises(SetupError, match=r"missing\.om: cannot be used"):
        adopt.adopt(models, NAME, None, tmp_path / "missing.om", "Ascend310")
