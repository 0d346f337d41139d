"""Twenty kills and ten freezes of the process of a camera, at ten parts a second. Writes out/camera-storm.json."""

import contextlib
import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import pytest

from tests import camera_storm, fake_gige
from tests.system.conftest import Line

KILLS, FREEZES = 20, 10
SOURCES = {"simulated": "simulated:frame_s=0.02", "aravis": f"aravis:{fake_gige.ADDRESS}"}
OUT = Path("out/camera-storm.json")
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture
def line(plant, servers):
    with ExitStack() as stack:
        yield Line(plant, servers, stack)


@pytest.mark.parametrize("source", SOURCES)
def test_every_part_of_a_camera_that_is_killed_and_frozen_is_answered_for(line, tmp_path, source):
    if source == "aravis" and not fake_gige.is_installed():
        pytest.skip("aravis-tools, gir1.2-aravis-0.8 or python3-gi is missing")
    with fake_gige.fake_camera() if source == "aravis" else contextlib.nullcontext():
        result = camera_storm.run(line, tmp_path / "line", SOURCES[source], KILLS, FREEZES)
    write(source, result)
    assert result.holds, result
    assert result.judged + sum(result.no_image.values()) == result.announced
    assert max(max(times) for times in result.return_s.values()) <= camera_storm.RETURN_S, result.summary()


def write(source, result):
    results = json.loads(OUT.read_text()) if OUT.exists() else {}
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(results | {source: asdict(result) | {"summary": result.summary()}}, indent=1) + "\n")
