"""A closer look at an archived part: its heat map and its nearest good patch, with a real bank and model."""

import dataclasses
import shutil
import subprocess
import sys
import threading
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from patchline import config
from patchline.banks import serving
from patchline.banks.row_origins import FILE, Origin, RowOrigins
from patchline.devices.backbone import CPU
from patchline.evaluation.neighbours import Neighbours
from patchline.inspection import picture
from patchline.inspection.inspector import untimed
from patchline.inspection.picture import Box
from patchline.operations import look_child
from patchline.operations.look_result import Answer, CloserLook
from patchline.protocol.errors import SetupError
from tests.unit.test_replay import Scene

LOOK_S = 200.0  # a child gives way to all other processes: to load its modules took 30 s beside three that computed
pytestmark = pytest.mark.timeout(2 * LOOK_S)


@pytest.fixture(scope="module")
def settings(plant):
    return config.load(plant / "config.yaml")


@pytest.fixture(scope="module")
def reject(settings, texture_folder):
    scene = Scene(settings, (texture_folder / "test" / "scratch" / "033.png").read_bytes())
    scene.keep()
    return scene


def pixels(png):
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def test_the_heat_map_is_that_of_the_worker_to_the_last_pixel(reject):
    look = reject.look()
    inspector = serving.load(reject.settings, ["brick"], CPU, 2)["brick"]
    inspection = inspector.inspect(reject.image, "image/png", untimed)
    assert look.answer is Answer.SAME
    assert look.heat_map == picture.heat_map_png(inspection.image, inspection.heat_map, inspection.regions)
    assert look.comparison.times == inspection.heat_map.patches.max()


def test_the_smallest_region_that_is_drawn_is_that_of_the_configuration(reject, monkeypatch):
    before = reject.look().heat_map
    category = reject.settings.categories["brick"].model_copy(update={"min_region_pixels": 128 * 128})
    monkeypatch.setattr(reject, "settings", reject.settings.model_copy(update={"categories": {"brick": category}}))
    assert reject.look().heat_map != before


def test_a_part_that_passes_has_a_heat_map_too(settings, texture_folder):
    scene = Scene(settings, (texture_folder / "train" / "good" / "000.png").read_bytes())
    scene.keep()
    assert scene.verdict.decision == "pass"
    look = scene.look()
    assert look.answer is Answer.SAME
    assert pixels(look.heat_map).shape == (128, 128, 3)
    assert look.comparison.times < 1


def test_the_nearest_good_patch_is_found_in_its_picture_by_brute_force_too(reject, texture_folder):
    comparison = reject.look().comparison
    inspector = serving.load(reject.settings, ["brick"], CPU, 1)["brick"]
    patches = inspector.inspect(reject.image, "image/png", untimed).patches
    squared = ((patches[:, None].astype(np.float64) - inspector.bank.search.features[None]) ** 2).sum(2)
    hottest = squared.min(1).argmax()
    row = squared[hottest].argmin()
    origins = RowOrigins.load(reject.settings.paths.memory_banks / "brick")
    assert comparison.origin is Origin.FOUND
    assert comparison.name == origins.paths[origins.image[row]].name
    columns = 128 // comparison.part.width
    for patch, number in ((comparison.part, hottest), (comparison.good, origins.patch[row])):
        assert (patch.y // patch.height, patch.x // patch.width) == divmod(number, columns)
    good = cv2.cvtColor(cv2.imread(str(origins.paths[origins.image[row]])), cv2.COLOR_BGR2RGB)
    place = Box(*(getattr(comparison.good, name) for name in ("x", "y", "width", "height")))
    assert np.array_equal(pixels(comparison.good.shown), picture.close_up(good, place))


@pytest.mark.parametrize("state", ["unknown", "unreadable", "changed"])
def test_a_good_picture_that_is_not_there_is_said(settings, texture_folder, tmp_path, state):
    banks = tmp_path / "banks"
    shutil.copytree(settings.paths.memory_banks, banks)
    origins = RowOrigins.load(banks / "brick")
    (banks / "brick" / FILE).unlink()
    if state != "unknown":
        moved = tuple(tmp_path / path.name for path in origins.paths)
        (banks / "brick" / FILE).write_bytes(dataclasses.replace(origins, paths=moved).encode())
        if state == "changed":
            for new, old in zip(moved, reversed(origins.paths), strict=True):
                shutil.copy(old, new)
    paths = settings.paths.model_copy(update={"memory_banks": banks})
    image = (texture_folder / "test" / "scratch" / "033.png").read_bytes()
    scene = Scene(settings.model_copy(update={"paths": paths}), image)
    scene.keep()
    comparison = scene.look().comparison
    assert (comparison.origin, comparison.good) == (Origin(state), None)
    assert bool(comparison.name) == (state != "unknown")
    assert pixels(comparison.part.shown).shape[2] == 3


def test_a_look_is_the_same_after_its_way_between_processes(reject):
    look = reject.look()
    assert CloserLook.model_validate_json(look.model_dump_json()) == look


@pytest.mark.parametrize(("x", "y"), [(0, 0), (120, 40), (56, 120)])
def test_a_close_up_is_as_large_as_five_boxes_and_within_the_picture(x, y):
    rgb = np.zeros((128, 128, 3), np.uint8)
    rgb[y : y + 8, x : x + 8] = (0, 200, 0)
    shown = picture.close_up(rgb, Box(x, y, 8, 8))
    assert (shown.shape, shown.dtype) == ((320, 320, 3), np.uint8)
    inside = (shown[..., 1] > 150) & (shown[..., 0] < 50)
    assert 50 * 50 < inside.sum() < 66 * 66


def test_a_close_up_of_a_narrow_picture_has_a_pixel_at_least():
    rgb = np.zeros((1, 2000, 3), np.uint8)
    assert picture.close_up(rgb, Box(0, 0, 60, 0)).shape == (1, 320, 3)


@pytest.mark.parametrize("url", ["amqp://somebody:secret@elsewhere:5672/", "amqp://127.0.0.1/"])
def test_a_child_that_lacks_its_archive_says_why_and_learns_no_password(settings, url):
    settings = config.with_urls(settings, url, None)
    assert "secret" not in look_child.task(settings, "job-1").decode()
    with pytest.raises(SetupError, match="there is no archive"):
        look_child.look(settings, "job-1", LOOK_S, threading.Event())


def test_a_child_reads_the_password_of_the_archive_from_the_environment(settings, monkeypatch):
    url = "postgresql://somebody:secret@127.0.0.1:1/archive"
    monkeypatch.setenv("PATCHLINE_ARCHIVE_URL", url)
    settings = settings.model_copy(update={"archive": settings.archive.model_copy(update={"url": url})})
    assert "secret" not in look_child.task(settings, "job-1").decode()
    with pytest.raises(SetupError, match="the archive does not answer"):
        look_child.look(settings, "job-1", LOOK_S, threading.Event())


def test_a_child_that_gets_nonsense_ends_with_the_reason(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "patchline.operations.look_child"], input=b"{}", capture_output=True, timeout=LOOK_S
    )
    assert result.returncode == 1
    assert b"job_id" in result.stderr


_TALKATIVE = """
import os, sys
from patchline.operations import look_child
from patchline.operations.look_result import Answer, CloserLook
def answer(settings, job_id):
    os.write(1, b"a library prints")
    return CloserLook(answer=Answer.SAME)
look_child._answer = answer
sys.exit(look_child.main())
"""


def test_what_a_library_prints_is_no_part_of_the_answer(settings):
    task = look_child.task(settings, "job-1")
    result = subprocess.run([sys.executable, "-c", _TALKATIVE], input=task, capture_output=True, timeout=LOOK_S)
    assert CloserLook.model_validate_json(result.stdout) == CloserLook(answer=Answer.SAME)
    assert b"a library prints" in result.stderr


def test_a_child_that_takes_too_long_is_killed(settings):
    with pytest.raises(SetupError, match="too little time"):
        look_child.look(settings, "job-1", 0, threading.Event())


def test_at_the_end_of_the_console_no_child_is_waited_for(settings):
    stop = threading.Event()
    stop.set()
    with pytest.raises(SetupError, match="the console ends"):
        look_child.look(settings, "job-1", LOOK_S, stop)


def test_the_distance_of_a_trial_is_told_in_thresholds_of_doubt(reject):
    inspector = serving.load(reject.settings, ["brick"], CPU, 1)["brick"]
    inspection, limits = inspector.inspect(reject.image, "image/png", untimed), inspector.thresholds
    told = Neighbours(inspector, None).find(inspection).times
    trial = limits.model_copy(update={"trial": True, "review": limits.fail / 4})
    with_trial = SimpleNamespace(bank=inspector.bank, thresholds=trial)
    assert Neighbours(with_trial, None).find(inspection).times == pytest.approx(4 * told)
