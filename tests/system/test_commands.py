"""The command line: a new category from its images to verdicts, and the errors for unusable input."""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from patchline.banks import store
from patchline.cli import main
from patchline.inspection.search import exact_search
from patchline.services import server
from tests import forked
from tests.conftest import CONFIG, make_textures
from tests.system.conftest import records

pytestmark = pytest.mark.timeout(180)
MISMATCH = 78  # EX_CONFIG
COMMANDS = [
    "init",
    "up",
    "worker",
    "publish",
    "camera",
    "cameras",
    "gate",
    "registers",
    "traces",
    "show",
    "recent",
    "report",
    "topology",
    "fit",
    "calibrate",
    "evaluate",
    "import-bank",
    "convert",
    "quantize",
    "probe",
    "om",
    "doctor",
    "services",
    "schema",
    "demo",
    "bench",
    "size",
    "dead-letters",
    "archive",
    "console",
    "banks",
]
SUBCOMMANDS = {
    "dead-letters": [("list",), ("show",), ("replay",), ("purge",)],
    "archive": [
        (),
        ("find",),
        ("picture",),
        ("hold",),
        ("release",),
        ("part",),
        ("gaps",),
        ("judge",),
        ("rates",),
        ("threshold",),
        ("replay",),
    ],
    "console": [
        (),
        ("audit",),
        *(("users", name) for name in ("add", "list", "role", "password", "remove")),
    ],
    "banks": [
        ("init",),
        ("list",),
        ("log",),
        ("publish",),
        ("activate",),
        ("rollback",),
        ("retire",),
        ("shadow",),
        ("report",),
        ("add",),
        ("remove",),
    ],
}


def patchline(*arguments, folder=None, **environment):
    return forked.run(arguments, os.environ | environment, folder, timeout=120)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_has_an_example(command):
    for subcommand in SUBCOMMANDS.get(command, [()]):
        result = CliRunner().invoke(main.app, [command, *subcommand, "--help"])
        assert result.exit_code == 0
        assert "Example:" in result.stdout


def test_the_help_lists_every_command():
    listing = patchline("--help").stdout.split("Commands:")[1].splitlines()
    assert [line.split()[0] for line in listing if line.startswith("  ") and line[2] != " "] == COMMANDS


@pytest.fixture(scope="module")
def gravel(tmp_path_factory):
    """The folder of a new user: pictures of gravel and a configuration with the category `gravel`."""
    folder = tmp_path_factory.mktemp("gravel")
    make_textures(folder / "gravel", "gravel.png", count=60)
    (folder / "my.yaml").write_text(CONFIG.replace("brick", "gravel"))
    (folder / "models").symlink_to(Path("models").resolve())
    return folder


@pytest.fixture(scope="module")
def fitted_gravel(gravel):
    """The same folder with a memory bank."""
    fitted = patchline("fit", "--category", "gravel", "--config", "my.yaml", "gravel/train/good", folder=gravel)
    assert fitted.returncode == 0, fitted.stderr
    assert "calibrated on 44 good images" in fitted.stdout
    return gravel


def test_a_new_category_is_fitted_evaluated_and_served(fitted_gravel, line):
    gravel = fitted_gravel
    evaluated = patchline("evaluate", "--category", "gravel", "--config", "my.yaml", "gravel", folder=gravel)
    assert evaluated.returncode == 0, evaluated.stderr
    report = json.loads((gravel / "out" / "gravel.json").read_text())
    assert report["instance_auroc_topk10"] >= 0.95
    assert report["pixel_auroc"] >= 0.9
    assert report["aupro"] >= 0.7
    assert sum(report["decisions"]["scratch"].values()) == 8
    assert (gravel / "out" / "gravel-mistakes.png").stat().st_size > 10_000
    line.folder = gravel
    shutil.copy(gravel / "my.yaml", gravel / "config.yaml")
    line.worker("--device", "cpu")
    published = line.run("publish", "--line", "l1", "--category", "gravel", str(gravel / "gravel" / "test"))
    assert len(records(published.out)) == 16
    verdicts = line.verdicts(16)
    assert {verdict.category for verdict in verdicts} == {"gravel"}
    manifest = json.loads((gravel / "faiss-index-precision" / "gravel" / "manifest.json").read_text())
    possible = manifest["calibration"]["images"] + 1  # p-values are multiples of 1 / possible
    assert all(round(possible * verdict.p_value) / possible == verdict.p_value for verdict in verdicts)
    assert {verdict.thresholds.patch_rule for verdict in verdicts} == {"review"}


def test_the_same_images_and_seed_give_the_same_memory_bank(fitted_gravel, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(fitted_gravel, folder, symlinks=True, ignore=shutil.ignore_patterns("out", "faiss*"))
    patchline("fit", "--category", "gravel", "--config", "my.yaml", "gravel/train/good", folder=folder)
    digests = []
    for fitted in (fitted_gravel, folder):
        manifest = json.loads((fitted / "faiss-index-precision" / "gravel" / "manifest.json").read_text())
        digests.append((manifest["index_sha256"], manifest["thresholds"]))
    assert digests[0] == digests[1]


def run_and_expect_error(*arguments, folder, code=2):
    """Run a command that must fail with an exit code and a one-line error. Return that line."""
    result = patchline(*arguments, folder=folder)
    assert result.returncode == code
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("patchline: ")]
    assert "Traceback" not in result.stderr
    assert result.stderr.endswith(line + "\n")
    return line


def test_too_few_good_images_are_refused(gravel, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted((gravel / "gravel" / "train" / "good").iterdir())[:5]:
        shutil.copy(path, few)
    error = run_and_expect_error("fit", "--category", "gravel", "--config", "my.yaml", str(few), folder=gravel)
    assert "5 good images are too few for a false-reject rate of 5.0%: it takes 19" in error


def test_a_broken_image_is_named_in_the_error(gravel, tmp_path):
    shutil.copytree(gravel / "gravel" / "train" / "good", tmp_path / "good")
    (tmp_path / "good" / "007.png").write_bytes(b"\x89PNG broken")
    error = run_and_expect_error(
        "fit", "--category", "gravel", "--config", "my.yaml", str(tmp_path / "good"), folder=gravel
    )
    assert "007.png" in error
    assert "remove it from the folder" in error


def test_a_folder_without_defects_cannot_be_evaluated(fitted_gravel):
    error = run_and_expect_error(
        "evaluate", "--category", "gravel", "--config", "my.yaml", "gravel/train", folder=fitted_gravel
    )
    assert "needs test/good" in error


def _change_golden_scores(folder):
    path = folder / "faiss-index-precision" / "brick" / "golden.json"
    document = json.loads(path.read_text())
    document["images"][1]["scores"]["topk10"] *= 1.1
    path.write_text(json.dumps(document))


@pytest.fixture
def broken(plant, tmp_path):
    """A copy of the plant that a test can damage."""
    folder = tmp_path / "plant"
    shutil.copytree(plant, folder, symlinks=True)
    (folder / "models").unlink()
    shutil.copytree("models", folder / "models")
    return folder


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda f: _edit(f, "worker: {", "worker: {lanes: many, "), "config.yaml:2: worker.lanes"),
        (lambda f: (f / "config.yaml").unlink(), "use --config to name a configuration file"),
        (lambda f: shutil.rmtree(f / "faiss-index-precision"), "patchline fit --category"),
        (lambda f: (f / "faiss-index-precision/brick/nnscorer_search_index.faiss").write_bytes(b"x"), "fit it again"),
        (lambda f: (f / "faiss-index-precision/brick/manifest.json").write_text("{}"), "fit it again"),
        (lambda f: _edit(f, "backbone: efficientnet_lite0", "backbone: other"), "other.json and its model into"),
        (lambda f: _edit(f, "imagesize: 128", "imagesize: 100"), "multiples of 32"),
    ],
)  # fmt: skip
def test_a_worker_with_unusable_files_ends_with_one_line_that_says_what_to_do(broken, damage, error):
    damage(broken)
    assert error in run_and_expect_error("worker", "--device", "cpu", folder=broken)


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda f: (f / "models/efficientnet_lite0.onnx").write_bytes(b"x"), "its sha256 differs"),
        (_change_golden_scores, "on cpu:0 at fit time against efficientnet_lite0 in f32 here"),
        (lambda f: _edit(f, "imagesize: 128", "imagesize: 96"), "imagesize was 128 and is 96; fit it again"),
        (lambda f: _edit(f, "layer: blocks4+10", "layer: layer2"), "layer is layer2"),
    ],
)
def test_a_worker_whose_files_do_not_match_ends_with_the_code_that_no_supervisor_restarts(broken, damage, error):
    damage(broken)
    assert error in run_and_expect_error("worker", "--device", "cpu", folder=broken, code=MISMATCH)


def test_an_unavailable_device_is_refused(broken):
    command = ("worker", "--device", "ascend:0")
    assert "patchline om efficientnet_lite0" in run_and_expect_error(*command, folder=broken, code=MISMATCH)
    assert "is not one of cpu" in run_and_expect_error("worker", "--device", "gpu", folder=broken)


def test_the_error_for_an_unreachable_broker_names_its_address(broken):
    _edit(broken, "broker: {", "broker: {url: 'amqp://127.0.0.1:1', ")
    assert "RabbitMQ at 127.0.0.1:1 cannot be used" in run_and_expect_error("topology", folder=broken)


def test_the_doctor_reports_the_environment_and_its_problems(broken, servers):
    urls = {"PATCHLINE_AMQP_URL": servers.amqp_url, "PATCHLINE_REDIS_URL": servers.redis_url}
    healthy = patchline("doctor", folder=broken, **urls)
    assert healthy.returncode == 0, healthy.stdout
    for text in (
        "cores",
        "broker",
        "takes images of 16000000 bytes",
        "npu-smi is not on the PATH",
        "MX_SDK_HOME is not set",
        "ready",
    ):
        assert text in healthy.stdout
    (broken / "faiss-index-precision/brick/nnscorer_search_index.faiss").write_bytes(b"x")
    cluster = f"{servers.amqp_url},amqp://guest:hunter2@127.0.0.1:1,amqp://guest:hun/ter2@127.0.0.1:1"
    ill = patchline("doctor", folder=broken, **urls | {"PATCHLINE_AMQP_URL": cluster.rpartition(",")[0]})
    assert ill.returncode == 1
    assert ill.stdout.count("PROBLEM") == 2
    assert "127.0.0.1:1 does not answer" in ill.stdout
    wrong = patchline("doctor", folder=broken, **urls | {"PATCHLINE_AMQP_URL": cluster})
    assert wrong.returncode == 2
    assert "write / as %2F" in wrong.stderr
    assert not [text for result in (ill, wrong) for text in ("hun", "ter2") if text in result.stdout + result.stderr]


def test_the_doctor_looks_at_each_node_of_a_clusters_url_and_shows_no_password(broken, servers):
    ports = server.free_ports(2)  # nodes that are away, before and after one that answers
    away = [f"amqp://guest:pa%40ss%2Fhunter2%2C@127.0.0.1:{port}" for port in ports]
    cluster = f"{away[0]},{servers.amqp_url},{away[1]}"
    urls = {"PATCHLINE_AMQP_URL": cluster, "PATCHLINE_REDIS_URL": servers.redis_url}
    report = patchline("doctor", folder=broken, **urls)
    words = " ".join(report.stdout.replace("│", " ").split())
    assert report.returncode == 1
    assert [f"127.0.0.1:{port} does not answer" in words for port in ports] == [True, True]
    assert words.count("answers at 127.0.0.1:") == 2  # the node that is there, and Redis
    assert "takes images of 16000000 bytes" in words  # asked of the node that is there
    assert "Traceback" not in report.stdout + report.stderr
    assert not [text for text in ("pa@ss", "pa%40", "hunter2") if text in report.stdout + report.stderr]


def test_the_committed_message_schema_is_up_to_date():
    schema = patchline("schema").stdout
    assert schema == Path("docs/asyncapi.json").read_text(), "run: patchline schema > docs/asyncapi.json"
    messages = {name: channel["messages"] for name, channel in json.loads(schema)["channels"].items()}
    verdict = messages["verdicts"]["Verdict"]["payload"]
    assert "job_id" in verdict["required"]
    assert verdict["additionalProperties"] is True  # readers ignore unknown fields
    assert "captured_at" in messages["jobs"]["Job"]["headers"]["required"]


def _edit(folder, before, after):
    path = folder / "config.yaml"
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))


@pytest.fixture(scope="module")
def dataset(gravel, tmp_path_factory):
    """Two categories in MVTec layout with memory banks, and a configuration with a third."""
    folder = tmp_path_factory.mktemp("mvtec")
    make_textures(folder / "gravel", "gravel.png")
    make_textures(folder / "brick", "brick.png")
    recipe = CONFIG.split("brick:")[1]
    (folder / "my.yaml").write_text(CONFIG + "".join(f"  {name}:{recipe}" for name in ("gravel", "absent")))
    (folder / "models").symlink_to(Path("models").resolve())
    for name in ("gravel", "brick"):
        fitted = patchline("fit", "--category", name, "--config", "my.yaml", f"{name}/train/good", folder=folder)
        assert fitted.returncode == 0, fitted.stderr
    return folder


def test_all_categories_are_evaluated_once_and_missing_ones_are_skipped(dataset):
    command = ("evaluate", "--all", "--dataset", ".", "--config", "my.yaml")
    first = patchline(*command, folder=dataset)
    assert first.returncode == 0, first.stderr
    assert "skipped absent: absent does not exist" in first.stderr
    assert "golden images, efficientnet_lite0 in f32 on cpu:0 at fit time" in first.stderr
    report = json.loads((dataset / "out" / "precision.json").read_text())
    assert set(report["categories"]) == {"gravel", "brick"}
    aurocs = [category["instance_auroc_topk10"] for category in report["categories"].values()]
    assert report["mean_instance_auroc_topk10"] == pytest.approx(sum(aurocs) / 2)
    assert report["met"] is (sum(aurocs) / 2 >= 0.995)
    assert "99.5% is" in first.stdout
    again = patchline(*command, folder=dataset)
    assert "golden images" not in again.stderr
    assert json.loads((dataset / "out" / "precision.json").read_text()) == report


def test_the_benchmark_of_a_category_times_each_stage(dataset):
    timed = patchline("bench", "--category", "brick", "--dataset", ".", "--config", "my.yaml", folder=dataset)
    assert timed.returncode == 0, timed.stderr
    (timings,) = json.loads((dataset / "out" / "performance.json").read_text())["categories"].values()
    assert min(timings[f"{stage}_ms"] for stage in ("decode", "preprocess", "inference", "whole")) > 0
    assert timings["fps"] == pytest.approx(1000 / timings["whole_ms"])


def test_a_dataset_is_checked_before_the_evaluation_starts(dataset, tmp_path):
    folder = tmp_path / "mvtec"
    shutil.copytree(dataset, folder, symlinks=True, ignore=shutil.ignore_patterns("out"))
    next((folder / "gravel" / "ground_truth" / "scratch").iterdir()).unlink()
    error = run_and_expect_error("evaluate", "--all", "--dataset", ".", "--config", "my.yaml", folder=folder)
    assert "1 masks are missing" in error
    assert not (folder / "out").exists()


def test_an_imported_memory_bank_is_calibrated_and_evaluated(fitted_gravel, tmp_path):
    folder = tmp_path / "new"
    shutil.copytree(fitted_gravel, folder, symlinks=True, ignore=shutil.ignore_patterns("out", "faiss*"))
    good = folder / "new-good"
    good.mkdir()
    for path in (folder / "gravel" / "train" / "good").iterdir():
        cv2.imwrite(str(good / path.name), cv2.flip(cv2.imread(str(path)), 1))
    old = fitted_gravel / "faiss-index-precision" / "gravel" / "nnscorer_search_index.faiss"
    command = ("import-bank", "--category", "gravel", "--config", "my.yaml")
    error = run_and_expect_error(*command, str(old), "gravel/train/good", folder=folder)
    assert "rows are patches of 44 of the good images" in error
    imported = patchline(*command, str(old), str(good), folder=folder)
    assert imported.returncode == 0, imported.stderr
    assert "none of them in the bank" in imported.stdout
    evaluated = patchline("evaluate", "--category", "gravel", "--config", "my.yaml", "gravel", folder=folder)
    assert evaluated.returncode == 0, evaluated.stderr


def test_an_index_of_another_network_or_of_an_ensemble_is_not_imported(fitted_gravel, tmp_path):
    index = fitted_gravel / "faiss-index-precision" / "gravel" / "nnscorer_search_index.faiss"
    features = np.roll(store.read_features(index), 40, axis=1)  # the channels of another network of equal size
    command = ("import-bank", "--category", "gravel", "--config", "my.yaml")
    other, member = tmp_path / "other.faiss", tmp_path / "Ensemble-1-2_nnscorer_search_index.faiss"
    other.write_bytes(exact_search.encode_index(np.ascontiguousarray(features)))
    member.write_bytes(index.read_bytes())
    good = "gravel/train/good"
    assert "another network" in run_and_expect_error(*command, str(other), good, folder=fitted_gravel)
    assert "member 1 of an ensemble" in run_and_expect_error(*command, str(member), good, folder=fitted_gravel)
