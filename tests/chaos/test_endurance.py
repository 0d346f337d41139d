"""The memory of a worker after many images; part of `make soak`."""

import json
from pathlib import Path

import psutil
import pytest

from patchline.protocol.messages import Decision
from tests.system.conftest import line  # noqa: F401

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]
IMAGES, WARM_UP, BATCH = 20_000, 2_000, 250


def test_the_memory_of_a_worker_does_not_grow(line, texture_folder):  # noqa: F811
    worker = line.worker("--device", "cpu")
    process = psutil.Process(worker.pid)
    images = [path.read_bytes() for path in sorted((texture_folder / "test").glob("*/*.png"))]
    sizes = {}
    for first in range(0, IMAGES, BATCH):
        for number in range(first, first + BATCH):
            line.send(images[number % len(images)], f"n{number}")
        verdicts = line.verdicts(BATCH)
        assert len({verdict.job_id for verdict in verdicts}) == BATCH
        assert all(verdict.decision is not Decision.ERROR for verdict in verdicts)
        sizes[first + BATCH] = process.memory_info().rss
    growth = sizes[IMAGES] / sizes[WARM_UP] - 1
    out = {
        "images": IMAGES,
        "bytes": {str(at): size for at, size in sizes.items() if at % WARM_UP == 0},
        "growth": growth,
    }
    Path("out").mkdir(exist_ok=True)
    Path("out/endurance.json").write_text(json.dumps(out, indent=2) + "\n")
    assert growth < 0.05
