"""What people type: a part of one's own, and what is said when something cannot be used."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import CONFIG, make_textures
from tests.system.conftest import records

pytestmark = pytest.mark.timeout(180)
COMMANDS = [
    "worker",
    "publish",
    "gate",
    "traces",
    "show",
    "topology",
    "fit",
    "evaluate",
    "import-bank",
    "convert",
    "quantize",
    "om",
    "doctor",
    "services",
    "schema",
    "demo",
    "bench",
    "dead-letters",
]


def patchline(*arguments, folder=None):
    return subprocess.run(
        [sys.executable, "-m", "patchline", *arguments], cwd=folder, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command):
    wanted = [("list",), ("show",), ("replay",), ("purge",)] if command == "dead-letters" else [()]
    for words in wanted:
        shown = patchline(command, *words, "--help")
        assert shown.returncode == 0
        assert "Example:" in shown.stdout


def test_the_list_of_commands_is_whole():
    shown = patchline("--help").stdout
    assert [
        each.split()[0] for each in shown.split("Commands:")[1].splitlines() if each.startswith("  ") and each[2] != " "
    ] == COMMANDS


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A new user's folder: pictures of gravel, and a configuration that knows gravel."""
    folder = tmp_path_factory.mktemp("own")
    make_textures(folder / "gravel", "gravel.png", count=60)
    (folder / "my.yaml").write_text(CONFIG.replace("brick", "gravel"))
    (folder / "models").symlink_to(Path("models").resolve())
    return folder


def test_a_part_of_ones_own_takes_fit_evaluate_and_worker(own, line):
    fitted = patchline("fit", "--category", "gravel", "--config", "my.yaml", "gravel/train/good", folder=own)
    assert fitted.returncode == 0, fitted.stderr
    assert "calibrated on 44 good images" in fitted.stdout
    evaluated = patchline("evaluate", "--category", "gravel", "--config", "my.yaml", "gravel", folder=own)
    assert evaluated.returncode == 0, evaluated.stderr
    report = json.loads((own / "out" / "gravel.json").read_text())
    assert report["instance_auroc_topk10"] >= 0.95
    assert report["pixel_auroc"] >= 0.9
    assert report["aupro"] >= 0.7
    assert sum(report["decisions"]["scratch"].values()) == 8
    assert (own / "out" / "gravel-mistakes.png").stat().st_size > 10_000
    line.folder = own
    shutil.copy(own / "my.yaml", own / "config.yaml")
    line.worker("--device", "cpu")
    published = line.run("publish", "--line", "l1", "--category", "gravel", str(own / "gravel" / "test"))
    assert len(records(published.out)) == 16
    assert {verdict.category for verdict in line.verdicts(16)} == {"gravel"}


def test_the_same_images_and_seed_give_the_same_bank(own, tmp_path):
    digests = []
    for number in range(2):
        folder = tmp_path / str(number)
        shutil.copytree(own, folder, symlinks=True, ignore=shutil.ignore_patterns("out", "faiss*"))
        patchline("fit", "--category", "gravel", "--config", "my.yaml", "gravel/train/good", folder=folder)
        manifest = json.loads((folder / "faiss-index-precision" / "gravel" / "manifest.json").read_text())
        digests.append((manifest["index_sha256"], manifest["thresholds"]))
    assert digests[0] == digests[1]


def refusal(*arguments, folder):
    """What a command says when it refuses, beside its log: one line, and the exit code for it."""
    found = patchline(*arguments, folder=folder)
    assert found.returncode == 2
    (line,) = [each for each in found.stderr.splitlines() if each.startswith("patchline: ")]
    assert "Traceback" not in found.stderr
    assert found.stderr.endswith(line + "\n")
    return line


def test_too_few_good_images_are_refused(own, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted((own / "gravel" / "train" / "good").iterdir())[:5]:
        shutil.copy(path, few)
    said = refusal("fit", "--category", "gravel", "--config", "my.yaml", str(few), folder=own)
    assert "5 good images are too few for a false-reject rate of 5.0%: it takes 19" in said


def test_a_good_image_that_is_broken_is_named(own, tmp_path):
    shutil.copytree(own / "gravel" / "train" / "good", tmp_path / "good")
    (tmp_path / "good" / "007.png").write_bytes(b"\x89PNG broken")
    said = refusal("fit", "--category", "gravel", "--config", "my.yaml", str(tmp_path / "good"), folder=own)
    assert "007.png" in said
    assert "take it out of the folder" in said


def test_a_folder_without_defects_cannot_be_evaluated(own):
    said = refusal("evaluate", "--category", "gravel", "--config", "my.yaml", "gravel/train", folder=own)
    assert "needs test/good" in said


def _other_golden_scores(folder):
    path = folder / "faiss-index-precision" / "brick" / "golden.json"
    document = json.loads(path.read_text())
    document["images"][1]["scores"]["topk10"] *= 1.1
    path.write_text(json.dumps(document))


@pytest.fixture
def broken(plant, tmp_path):
    """A copy of the plant that a test may damage."""
    folder = tmp_path / "plant"
    shutil.copytree(plant, folder, symlinks=True)
    (folder / "models").unlink()
    shutil.copytree("models", folder / "models")
    return folder


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: _edit(f, "worker: {", "worker: {lanes: many, "), "config.yaml:2: worker.lanes"),
        (lambda f: (f / "config.yaml").unlink(), "name a configuration file with --config"),
        (lambda f: shutil.rmtree(f / "faiss-index-precision"), "patchline fit --category"),
        (lambda f: (f / "faiss-index-precision/brick/nnscorer_search_index.faiss").write_bytes(b"x"), "fit it again"),
        (lambda f: (f / "faiss-index-precision/brick/manifest.json").write_text("{}"), "fit it again"),
        (lambda f: (f / "models/efficientnet_lite0.onnx").write_bytes(b"x"), "its sha256 differs"),
        (lambda f: (f / "models/efficientnet_lite0.json").unlink(), "see models/README.md"),
        (_other_golden_scores, "efficientnet_lite0 in f32 on cpu:0 at fit time against efficientnet_lite0 in f32 here"),
        (lambda f: _edit(f, "imagesize: 128", "imagesize: 96"), "imagesize was 128 and is 96; fit it again"),
        (lambda f: _edit(f, "imagesize: 128", "imagesize: 100"), "multiples of 32"),
        (lambda f: _edit(f, "layer: blocks4+10", "layer: layer2"), "layer is layer2"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_stops_the_start_with_one_line_that_says_what_to_do(broken, damage, said):
    damage(broken)
    assert said in refusal("worker", "--device", "cpu", folder=broken)


def test_a_device_that_is_not_there_is_refused(broken):
    assert "patchline om efficientnet_lite0" in refusal("worker", "--device", "ascend:0", folder=broken)
    assert "is not one of cpu" in refusal("worker", "--device", "gpu", folder=broken)


def test_a_broker_that_is_not_there_is_said_with_its_address(broken):
    _edit(broken, "broker: {", "broker: {url: 'amqp://127.0.0.1:1', ")
    assert "RabbitMQ at 127.0.0.1:1 cannot be used" in refusal("topology", folder=broken)


def test_the_doctor_finds_what_is_there_and_says_what_to_do(broken, servers):
    url = servers.amqp_url.replace("guest:guest@", "")
    _edit(broken, "broker: {", f"broker: {{url: '{url}', ")
    _edit(broken, "categories:", f"redis: {{url: '{servers.redis_url}'}}\ncategories:")
    healthy = patchline("doctor", folder=broken)
    assert healthy.returncode == 0, healthy.stdout
    for found in ("cores", "broker", "npu-smi is not on the PATH", "MX_SDK_HOME is not set", "ready"):
        assert found in healthy.stdout
    (broken / "faiss-index-precision/brick/nnscorer_search_index.faiss").write_bytes(b"x")
    _edit(broken, url, "amqp://127.0.0.1:1")
    ill = patchline("doctor", folder=broken)
    assert ill.returncode == 1
    assert ill.stdout.count("PROBLEM") == 2


def test_the_document_of_the_messages_is_the_committed_one():
    made = patchline("schema").stdout
    assert made == Path("docs/asyncapi.json").read_text(), "run: patchline schema > docs/asyncapi.json"
    messages = {name: channel["messages"] for name, channel in json.loads(made)["channels"].items()}
    verdict = messages["verdicts"]["Verdict"]["payload"]
    assert "job_id" in verdict["required"]
    assert verdict["additionalProperties"] is False
    assert "captured_at" in messages["jobs"]["Job"]["headers"]["required"]


def _edit(folder, before, after):
    path = folder / "config.yaml"
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))


@pytest.fixture(scope="module")
def dataset(own, tmp_path_factory):
    """Two categories in MVTec layout with banks, and a configuration that knows a third."""
    folder = tmp_path_factory.mktemp("mvtec")
    make_textures(folder / "gravel", "gravel.png")
    make_textures(folder / "brick", "brick.png")
    recipe = CONFIG.split("brick:")[1]
    (folder / "my.yaml").write_text(CONFIG + "".join(f"  {name}:{recipe}" for name in ("gravel", "absent")))
    (folder / "models").symlink_to(Path("models").resolve())
    for name in ("gravel", "brick"):
        done = patchline("fit", "--category", name, "--config", "my.yaml", f"{name}/train/good", folder=folder)
        assert done.returncode == 0, done.stderr
    return folder


def test_all_categories_are_evaluated_skipped_by_name_and_not_done_twice(dataset):
    command = ("evaluate", "--all", "--dataset", ".", "--config", "my.yaml")
    first = patchline(*command, folder=dataset)
    assert first.returncode == 0, first.stderr
    assert "skipped absent: absent is not there" in first.stderr
    assert "golden images, efficientnet_lite0 in f32 on cpu:0 at fit time" in first.stderr
    report = json.loads((dataset / "out" / "precision.json").read_text())
    assert set(report["categories"]) == {"gravel", "brick"}
    figures = [each["instance_auroc_topk10"] for each in report["categories"].values()]
    assert report["mean_instance_auroc_topk10"] == pytest.approx(sum(figures) / 2)
    assert report["met"] is (sum(figures) / 2 >= 0.995)
    assert "99.5% is" in first.stdout
    again = patchline(*command, folder=dataset)
    assert "golden images" not in again.stderr
    assert json.loads((dataset / "out" / "precision.json").read_text()) == report


def test_categories_are_timed_with_decoding_listed_apart(dataset):
    timed = patchline("bench", "--category", "brick", "--dataset", ".", "--config", "my.yaml", folder=dataset)
    assert timed.returncode == 0, timed.stderr
    (found,) = json.loads((dataset / "out" / "performance.json").read_text())["categories"].values()
    parts = found["decode_ms"] + found["preprocess_ms"] + found["inference_ms"]
    assert found["whole_ms"] == pytest.approx(parts, rel=0.5)
    assert found["fps"] == pytest.approx(1000 / found["whole_ms"])


def test_a_dataset_is_checked_before_anything_is_done(dataset, tmp_path):
    folder = tmp_path / "mvtec"
    shutil.copytree(dataset, folder, symlinks=True, ignore=shutil.ignore_patterns("out"))
    next((folder / "gravel" / "ground_truth" / "scratch").iterdir()).unlink()
    said = refusal("evaluate", "--all", "--dataset", ".", "--config", "my.yaml", folder=folder)
    assert "1 masks are missing" in said
    assert not (folder / "out").exists()


def test_a_bank_from_elsewhere_is_calibrated_and_serves(own, tmp_path):
    folder = tmp_path / "new"
    shutil.copytree(own, folder, symlinks=True, ignore=shutil.ignore_patterns("out", "faiss*"))
    good = folder / "gravel" / "train" / "good"
    for path in sorted(good.iterdir())[:20]:
        path.rename((folder / "gravel") / path.name)
    old = own / "faiss-index-precision" / "gravel" / "nnscorer_search_index.faiss"
    done = patchline("import-bank", "--category", "gravel", "--config", "my.yaml", str(old), str(good), folder=folder)
    assert done.returncode == 0, done.stderr
    assert "none of them in the bank" in done.stdout
    evaluated = patchline("evaluate", "--category", "gravel", "--config", "my.yaml", "gravel", folder=folder)
    assert evaluated.returncode == 0, evaluated.stderr
