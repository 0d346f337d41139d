"""A worker scales images of a 12-bit camera by the depth of their recipe, and refuses those that contradict it."""

import json

import numpy as np
import pytest

from patchline.protocol import topology
from patchline.protocol.errors import Reason
from patchline.protocol.messages import Decision
from tests import pictures

pytestmark = pytest.mark.timeout(120)
CATEGORY = (
    "{backbone: efficientnet_lite0, layer: blocks4+10, resize: 64, imagesize: 64, coreset_ratio: 0.3, bit_depth: 12, "
    "false_reject_rate: 0.15, review_rate: 0.15}"
)


def surface(seed):
    """A rough surface, uint16 of 12 bits."""
    rough = np.random.default_rng(seed).integers(0, 4096, (16, 16), np.uint16)
    return np.kron(rough, np.ones((4, 4), np.uint16))


@pytest.fixture
def deep_line(line, tmp_path):
    """A line whose only category has 12 bits in files of 16."""
    (tmp_path / "models").symlink_to(line.folder / "models")
    (tmp_path / "good").mkdir()
    for seed in range(8):
        (tmp_path / "good" / f"{seed}.tiff").write_bytes(pictures.tiff(surface(seed)))
    (tmp_path / "config.yaml").write_text(f"worker: {{metrics_port: 0}}\ncategories:\n  cup: {CATEGORY}\n")
    line.reconfigure(tmp_path)
    fitted = line.run("fit", "--category", "cup", str(tmp_path / "good"))
    assert fitted.returncode == 0, fitted.err
    return line


def test_a_picture_that_contradicts_the_depth_gets_the_decision_error_and_the_others_are_judged(deep_line, tmp_path):
    bright = surface(1)
    bright[5, 5] = 4096
    images = {
        "same": pictures.tiff(surface(1)),
        "declared": pictures.tiff(surface(1), 12),
        "bright": pictures.tiff(bright),
        "eight": pictures.tiff((surface(1) >> 4).astype(np.uint8)),
    }
    for name, image in images.items():
        (tmp_path / f"{name}.tiff").write_bytes(image)
    deep_line.worker("--device", "cpu")
    paths = [str(tmp_path / f"{name}.tiff") for name in images]
    published = deep_line.run("publish", "--line", "l1", "--category", "cup", *paths)
    assert published.returncode == 0, published.err
    verdicts = {verdict.part_id: verdict for verdict in deep_line.verdicts(len(images))}
    assert verdicts["same"].score == verdicts["declared"].score
    assert {verdicts[name].decision for name in ("same", "declared")} <= {Decision.PASS, Decision.REVIEW, Decision.FAIL}
    for name, detail in {
        "bright": "it has the value 4096, but 12 bits end at 4095",
        "eight": "it has 8 bits per channel, but bit_depth of the category is 12",
    }.items():
        assert (verdicts[name].decision, verdicts[name].reason) == (Decision.ERROR, Reason.UNREADABLE_IMAGE)
        assert detail in verdicts[name].detail
    assert len(deep_line.messages(topology.DEAD, 2)) == 2
    manifest = json.loads((tmp_path / "faiss-index-precision" / "cup" / "manifest.json").read_text())
    assert (manifest["bit_depth"], manifest["bit_alignment"]) == (12, "low")
