"""The reckoning of `make plant`, on ledgers that are written by hand."""

from contextlib import closing

import cv2
import numpy as np
import pytest

from patchline import config
from patchline.archive import opening
from patchline.archive.picture_table import PictureTable
from patchline.gate.tracker import UNATTENDED
from patchline.plc.register_map import Bin, Result
from patchline.protocol.gate_messages import Action
from patchline.protocol.messages import Decision
from tests.archive_contract import record
from tests.picture_contract import row
from tests.plant import archived, reckoning
from tests.plant.faults import Fault
from tests.plant.goods import digest
from tests.plant.scene import Audit


class Belt:
    """A ledger and an audit, part by part. Each part takes a second, one after the other."""

    def __init__(self):
        self.events, self.audit, self.at = [], Audit(), 100.0

    def part(
        self,
        where,
        result=Result.ACCEPT,
        verdict=Decision.PASS,
        acts=(Action.ACCEPT,),
        picture="good/1.png",
        number=None,
        because="",
    ):
        part = len(self.events) + 1
        number = number or part
        self.event("trigger", number=number, count=100 * part, part=part)
        self.at += 0.1
        if result is not None:
            self.event("result", number=number, result=result, code=1, in_time=True)
        self.at += 0.8
        accept = result is Result.ACCEPT
        self.event("decision", number=number, accept=accept)
        self.event("confirmation", number=number, bin=where)
        self.at += 0.1
        self.event("bin", part=part, picture=picture, bin=where)
        if verdict is not None:
            self.audit.verdicts.append((number, 100 * part, verdict))
        self.audit.acts += [(number, None if because == UNATTENDED else 100 * part, act, because) for act in acts]

    def event(self, kind, **values):
        self.events.append({"at": self.at, "kind": kind, **values})

    def reckon(self, *faults):
        return reckoning.reckon(self.events, self.audit, list(faults), "bricks")


@pytest.fixture
def belt():
    belt = Belt()
    for _ in range(5):
        belt.part(Bin.GOOD)
        belt.part(Bin.REJECT, Result.REJECT, Decision.FAIL, [Action.REJECT], "scratch/1.png")
    return belt


def test_a_belt_without_a_fault_holds(belt):
    result = belt.reckon()
    assert result.holds, result
    assert (result.parts, result.good_bin, result.reject_bin) == (10, 5, 5)
    assert (result.passed_outside_faults, result.share_outside_faults) == (5, 1.0)
    assert result.photo_to_coil_ms == {"n": 5, "median": 100.0, "p99": 100.0, "max": 100.0}


@pytest.mark.parametrize(
    ("part", "count"),
    [
        ({"where": Bin.GOOD, "verdict": None}, "bad_in_good_bin"),
        ({"where": Bin.GOOD, "verdict": Decision.FAIL}, "bad_in_good_bin"),
        ({"where": Bin.GOOD, "result": None}, "bad_in_good_bin"),
        ({"where": Bin.GOOD, "acts": [Action.REJECT]}, "escaped"),
        ({"where": Bin.GOOD, "acts": [Action.ACCEPT, Action.REJECT]}, "opposite_acts"),
        ({"where": Bin.REJECT, "result": None, "verdict": None, "acts": []}, "unnoticed"),
    ],
    ids=str,
)
def test_a_broken_promise_is_counted(belt, part, count):
    belt.part(**part)
    result = belt.reckon()
    assert getattr(result, count) == 1, result
    assert not result.holds


def test_a_number_that_a_plc_uses_again_is_another_part(belt):
    belt.part(Bin.GOOD, number=1)
    belt.part(Bin.REJECT, result=None, verdict=None, acts=[], number=1)
    result = belt.reckon()
    assert (result.unnoticed, result.opposite_acts, result.bad_in_good_bin) == (1, 0, 0)
    belt.part(Bin.GOOD, verdict=Decision.FAIL, acts=[Action.REJECT], number=1)
    result = belt.reckon()
    assert (result.escaped, result.bad_in_good_bin) == (1, 1)


def test_a_part_that_was_recorded_afterwards_is_noticed_and_counted(belt):
    belt.part(Bin.REJECT, result=None, verdict=None, acts=[Action.REJECT], because=UNATTENDED)
    result = belt.reckon()
    assert result.holds, result
    assert (result.unnoticed, result.unattended, result.overwritten) == (0, 1, 1)


@pytest.mark.parametrize(("before_s", "forgotten"), [(0.1, 1), (0.6, 0)])
def test_nobody_can_know_of_a_part_whose_plc_lost_its_memory_at_once(belt, before_s, forgotten):
    reset = belt.at + before_s
    belt.part(Bin.REJECT, result=None, verdict=None, acts=[])
    belt.event("plc", state="runs")
    result = belt.reckon(Fault("plc_reset", reset, reset + 1.0, reset + 1.5))
    assert (result.forgotten, result.unnoticed) == (forgotten, 1 - forgotten)
    assert result.is_safe is bool(forgotten)
    assert belt.reckon(Fault("plc_restart", reset, reset + 1.0, reset + 1.5)).unnoticed == 1


def test_a_passed_part_in_the_reject_bin_counts_only_outside_of_faults(belt):
    start = belt.at
    belt.part(Bin.REJECT)
    assert not belt.reckon().holds
    result = belt.reckon(Fault("worker_kill", start + 0.5, start + 0.6, start + 0.7))
    assert result.holds, result
    assert result.good_in_reject_bin == 1


def test_a_machine_that_stalls_is_no_fault_of_the_line(belt):
    belt.event("stall", seconds=0.2)
    belt.part(Bin.REJECT)
    result = belt.reckon()
    assert (result.stalled_s, result.passed_outside_faults, result.share_outside_faults) == (0.2, 5, 1.0)
    assert result.good_in_reject_bin == 1


def test_a_defect_that_was_judged_pass_is_counted_apart(belt):
    belt.part(Bin.GOOD, picture="scratch/2.png")
    result = belt.reckon()
    assert result.holds
    assert result.defects_judged_pass == 1


def test_a_part_that_was_judged_by_the_picture_of_another_one_is_bad_in_the_good_bin(belt, tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (2, 8, 8), np.uint8)
    for name, picture in zip(("own", "other"), values, strict=True):
        assert cv2.imwrite(str(tmp_path / f"{name}.png"), picture)
    own = str(tmp_path / "own.png")
    as_bmp = cv2.imencode(".bmp", values[0])[1].tobytes()  # the same pixels in another file
    for image in (as_bmp, (tmp_path / "other.png").read_bytes()):
        belt.part(Bin.GOOD, picture=own)
        trigger = [event for event in belt.events if event["kind"] == "trigger"][-1]
        belt.audit.pictures.append((trigger["number"], trigger["count"], digest(image)))
    result = belt.reckon()
    assert not result.is_safe
    assert (result.foreign_pictures, result.bad_in_good_bin) == (1, 1)
    assert result.examples["foreign_pictures"] == [(trigger["number"], trigger["count"])]


@pytest.mark.parametrize(
    ("detail", "cause"),
    [
        ("the trigger before still waited for its frame", "merged"),
        ("the camera was still busy with the trigger before", "merged"),
        ("triggered up to 56 ms ago, and camera.trigger_late_ms is 40", "late trigger"),
        ("triggered at an unknown time, and camera.trigger_late_ms is 40", "late trigger"),
        ("the camera had its trigger 9 ms too late (camera.trigger_late_ms)", "late trigger"),
        ("its frame came 50 ms too late (camera.frame_timeout_ms)", "late or no frame"),
        ("no frame within 250 ms", "late or no frame"),
        ("the frame is incomplete (missing-packets)", "broken frame"),
        ("the camera is lost: trigger: the process of the camera has ended", "camera lost"),
        ("the process of the camera ended before the image was sent", "process ended"),
    ],
)
def test_parts_without_an_image_are_counted_by_cause(belt, detail, cause):
    belt.part(Bin.REJECT, Result.REJECT, Decision.ERROR, [Action.REJECT])
    belt.audit.no_image.append((1, 100, detail))
    result = belt.reckon()
    assert result.holds
    assert result.no_image == {cause: 1}


def test_the_time_to_safe_ends_when_the_plc_withdraws_its_permission(belt):
    fault = Fault("gate_kill", belt.at, belt.at + 0.3, belt.at + 2.0)
    belt.at += 0.15
    belt.event("permit", permit=False, because="watchdog")
    assert belt.reckon(fault).time_to_safe_ms["gate_kill"]["max"] == 158.0


def test_a_job_without_a_row_and_a_reject_without_its_picture_break_the_promise(belt, tmp_path, monkeypatch):
    category = {"backbone": "b", "layer": "l", "resize": 64, "imagesize": 64}
    sections = {"categories": {"brick": category}, "paths": {"archive": tmp_path}, "archive": archived.CHANGES}
    settings = config.Config.model_validate(sections)
    monkeypatch.setattr(archived, "_SETTLE_S", 0.0)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8), np.uint8)
    images = [cv2.imencode(".png", picture)[1].tobytes() for picture in pixels]
    numbered = [record(f"job-{number}", number=number, encoder_count=100 * number) for number in range(2)]
    belt.audit.jobs |= {"job-0", "job-1", "blind"}
    belt.audit.pictures += [(number, 100 * number, digest(images[0])) for number in range(2)]
    with closing(opening.open_archive(settings)) as archive:
        archive.prepare()
        archive.save([*numbered, record("blind", decision="error", reason="no_image", number=2)], [])
        opening.make_folder(settings)
        found = archived.when_settled(settings, belt.audit)
        assert (found["rows"], found["rejects"], found["without_picture"], found["missing"]) == (3, 2, 2, 0)
        for number, image in enumerate(images):
            PictureTable(archive).add([row(f"job-{number}", body=image)])
            opening.open_store(settings).put(row(body=image).digest, image)
        found = archived.when_settled(settings, belt.audit)
        assert (found["without_picture"], found["foreign_pictures"]) == (0, 1)
        belt.audit.jobs.add("lost")
        archive.save([record("again", number=1, encoder_count=100)], [])
        found = archived.when_settled(settings, belt.audit)
        assert (found["missing"], found["twice"]) == (1, 1)
    belt.audit.pictures.clear()
    for name in ("missing", "twice", "without_picture", "foreign_pictures"):
        assert not reckoning.reckon(belt.events, belt.audit, [], "bricks", archive={name: 1}).is_safe
    assert belt.reckon().is_safe
