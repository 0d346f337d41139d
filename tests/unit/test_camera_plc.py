"""A camera that a PLC triggers: which parts are photographed, and which are only announced."""

import threading

import pytest

from patchline import config
from patchline.camera.metrics import PlcMetrics
from patchline.camera.plc_triggers import PlcTriggers, Rules, open_reader
from patchline.camera.triggers import Trigger
from patchline.plc.register_map import NO_COUNT, PLC_HEADER, VERSION
from patchline.plc.trigger_reader import TriggerReader
from patchline.plc.words import MemoryWords, PlcError
from patchline.protocol.errors import SetupError
from patchline.runtime.metrics import Registry
from tests.plc_memory import LAYOUT, Plc

CYCLE_S = 0.02


class Breaking(MemoryWords):
    """Words that can be cut off: all of them, or the slots of the triggers."""

    def __init__(self):
        super().__init__()
        self.breaks_from = None
        self.breaks_at = None

    def read(self, start, count):
        if start == self.breaks_at or (self.breaks_from is not None and start >= self.breaks_from):
            raise PlcError("timed out")
        return super().read(start, count)


class Camera:
    """The triggers of a PLC in memory, which runs its program at each step."""

    def __init__(self, **rules):
        self.plc, self.registry = Plc(), Registry()
        self.plc.memory = Breaking()
        self.heartbeat = 0
        self.plc.write_header(version=VERSION, slots=LAYOUT.slots)
        reader = TriggerReader(self.plc.memory, LAYOUT, lambda: self.plc.now)
        codes = {1: "bottle", 2: "cup"}
        self.triggers = PlcTriggers(
            reader, Rules("bottle", codes, **rules), PlcMetrics("l", "c", self.registry), lambda: self.plc.now
        )
        self.step()

    def step(self, seconds=CYCLE_S, runs=True):
        """Let time pass, let the PLC's program run, and read it."""
        self.plc.now += seconds
        if runs:
            self.heartbeat += 1
            self.plc.write_header(heartbeat=self.heartbeat)
        return self.triggers.step()

    def causes(self, **options):
        return [sighting.objection and sighting.objection.cause for sighting in self.step(**options)]

    def count(self, name):
        return self.registry.get_sample_value(f"patchline_camera_plc_{name}", {"line": "l", "category": "c"})


def numbers(sightings):
    return [sighting.trigger.number for sighting in sightings]


def test_each_part_of_the_plc_is_a_trigger_with_its_number_and_count():
    camera = Camera()
    camera.plc.trigger(7, count=-5)
    (sighting,) = camera.step()
    assert sighting.trigger == Trigger(number=7, encoder_count=-5)
    assert (sighting.since, sighting.objection) == (pytest.approx(camera.plc.now - CYCLE_S), None)
    assert camera.step() == []
    camera.plc.trigger(8, count=NO_COUNT)
    assert camera.step()[0].trigger == Trigger(number=8)


def test_parts_that_were_triggered_before_the_process_began_are_not_its_own():
    plc = Plc()
    plc.trigger(1)
    triggers = PlcTriggers(
        TriggerReader(plc.memory, LAYOUT, lambda: 0.0), Rules("c", {}), PlcMetrics("l", "c", Registry())
    )
    assert triggers.step() == []
    plc.trigger(2)
    assert numbers(triggers.step()) == [2]


def test_of_parts_that_were_seen_together_only_the_last_one_can_be_before_the_camera():
    camera = Camera()
    camera.plc.trigger(7)
    camera.plc.trigger(8)
    assert camera.causes() == ["late_trigger", None]


def test_a_lost_link_is_said_and_a_part_of_that_time_is_as_old_as_the_last_answer():
    camera = Camera()
    last_answer = camera.plc.now
    camera.plc.memory.breaks_from = 0
    camera.plc.trigger(7)
    assert camera.step() == []
    assert camera.count("silent") == 1
    camera.plc.memory.breaks_from = None
    (sighting,) = camera.step(1.0)
    assert (sighting.trigger.number, sighting.since) == (7, pytest.approx(last_answer))
    assert camera.count("silent") == 0


def test_a_part_is_not_photographed_while_a_later_one_may_be_unread():
    camera = Camera()
    for _ in range(LAYOUT.slots - 2):
        camera.plc.trigger(0)
    camera.step()
    for number in (1, 2):  # in the last slot and the first one, which are not read at once
        camera.plc.trigger(number)
    camera.plc.memory.breaks_at = LAYOUT.trigger(0)
    (sighting,) = camera.step()
    assert (sighting.trigger.number, sighting.objection.cause, camera.count("silent")) == (1, "late_trigger", 1)
    camera.plc.memory.breaks_at = None
    assert numbers(camera.step(1.0)) == [2]


def test_triggers_that_were_overwritten_unread_are_counted():
    camera = Camera()
    for number in range(LAYOUT.slots + 3):
        camera.plc.trigger(number)
    assert numbers(camera.step()) == list(range(3, LAYOUT.slots + 3))
    assert camera.count("lost_total") == 3


def test_a_plc_that_counts_anew_is_said_and_its_parts_are_triggers():
    camera = Camera()
    for number in range(3):
        camera.plc.trigger(number)
    camera.step()
    camera.plc.sequences["trigger"] = 0
    camera.plc.trigger(1)
    assert numbers(camera.step()) == [1]
    assert camera.count("restarts_total") == 1


def test_a_part_that_the_program_of_the_plc_told_late_is_as_old_as_its_last_heartbeat():
    camera = Camera()
    camera.step()
    alive = camera.plc.now
    for _ in range(40):
        camera.step(runs=False)
    assert camera.count("silent") == 1
    camera.plc.trigger(7)
    assert camera.step()[0].since == pytest.approx(alive)
    assert camera.count("silent") == 0


def test_a_part_of_another_product_is_not_photographed():
    camera = Camera()
    camera.plc.trigger(1, category=2)
    assert camera.causes() == ["other_product"]
    camera.plc.trigger(2, category=1)
    assert camera.causes() == [None]
    camera.plc.write_header(category=3)
    camera.plc.trigger(3)
    assert camera.step()[0].objection.reason == (
        "the PLC says product 3 (one that plc.categories does not have), not bottle"
    )


@pytest.mark.parametrize(("now", "cause"), [(1_000, None), (1_041, "late_trigger"), (-(2**31) + 10, "late_trigger")])
def test_a_part_that_has_moved_too_far_is_not_photographed(now, cause):
    camera = Camera(late_counts=40)
    camera.plc.write_header(count=now)
    camera.plc.trigger(1, count=1_000)
    assert camera.causes() == [cause]


def test_a_belt_moves_across_the_wrap_of_its_encoder():
    camera = Camera(late_counts=40)
    camera.plc.write_header(count=-(2**31) + 10)
    camera.plc.trigger(1, count=2**31 - 10)
    assert camera.causes() == [None]


def test_a_plc_without_an_encoder_cannot_say_how_far_a_part_has_moved():
    camera = Camera(late_counts=40)
    camera.plc.write_header(count=0)
    camera.plc.trigger(1, count=NO_COUNT)
    assert camera.causes() == ["late_trigger"]


def test_the_area_of_another_version_gives_no_triggers():
    camera = Camera()
    camera.plc.memory.write(LAYOUT.plc, (VERSION + 1,) + (0,) * (PLC_HEADER.words - 1))
    assert camera.triggers.step() == []
    assert camera.count("silent") == 1


def test_the_thread_gives_what_it_reads_and_says_when_it_ends():
    camera, stop, got = Camera(), threading.Event(), []
    ended = threading.Event()

    def put(sighting):
        got.append(sighting)
        (stop if sighting else ended).set()

    camera.plc.trigger(7)
    camera.triggers.run(0.001, put, stop)
    assert ended.wait(30)
    assert [sighting and sighting.trigger.number for sighting in got] == [7, None]


def test_an_address_that_is_no_plc_is_refused():
    for address, message in (
        ("modbus-server:1502", "the camera reads a PLC, and serves none"),
        ("x:1", "no"),
        ("", "no"),
    ):
        with pytest.raises(SetupError, match=message):
            open_reader(address, config.PlcRules())
