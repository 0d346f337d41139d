"""Drift on a running line: a worker compares the parts of each line with the held-out images of the bank."""

import re
import urllib.request

import cv2
import numpy as np
import pytest

from patchline.worker import drift
from tests.conftest import SIDE, TEXTURES
from tests.system.conftest import wait_for

pytestmark = pytest.mark.timeout(180)


def pieces(change, count=drift.WINDOW_PARTS):
    """Pieces of the wall that the bank was not made of, as PNG."""
    wall, rng = cv2.imread(str(TEXTURES / "brick.png")), np.random.default_rng(11)
    corners = rng.integers(0, 512 - SIDE, (count, 2))
    return [cv2.imencode(".png", change(wall[y : y + SIDE, x : x + SIDE]))[1].tobytes() for y, x in corners]


def charts(port, line):
    """The share of a line and its limits, by name, as Prometheus reads them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
        page = reply.read().decode()
    sample = rf'(?m)^patchline_drift_(\w+){{category="brick",line="{line}"}} (\S+)$'
    return {name: float(value) for name, value in re.findall(sample, page)}


def test_a_worker_shows_for_each_line_whether_its_parts_score_like_the_held_out_images(line):
    worker = line.worker("--device", "cpu")

    def noisy(piece):
        return cv2.add(piece, np.random.default_rng(5).integers(0, 40, piece.shape, np.uint8))

    for name, change in (("l1", lambda piece: piece), ("l2", noisy)):
        for number, image in enumerate(pieces(change)):
            line.send(image, f"{name}-{number}", line=name, key=f"{name}.brick")
    line.verdicts(2 * drift.WINDOW_PARTS)
    wait_for(lambda: charts(worker.metrics_port, "l1") and charts(worker.metrics_port, "l2"))
    unchanged, changed = charts(worker.metrics_port, "l1"), charts(worker.metrics_port, "l2")
    assert unchanged["lower_limit"] <= unchanged["share"] <= unchanged["upper_limit"]
    assert changed["share"] > changed["upper_limit"]
