"""What `patchline demo --plant` shows, from events that are written by hand."""

import pytest

from patchline.demo import belt_view
from patchline.demo.belt_parts import BeltParts
from patchline.plant.belt import Geometry
from patchline.plc.register_map import Bin, Code, Result
from patchline.protocol.messages import Decision, Scores, Thresholds, Verdict

GEOMETRY = Geometry(arm_mm=1000.0, sensor_mm=1060.0, end_mm=1200.0)
NOW = 1_700_000_000_000
LIMITS = Thresholds(review=850.0, fail=900.0)


class Belt(BeltParts):
    """Parts whose events come one by one."""

    def event(self, kind, at=10.0, **values):
        self.on_events([{"kind": kind, "at": at, **values}])

    def trigger(self, number, count=0):
        self.event("trigger", number=number, count=count, part=number)

    def judge(self, number, decision, score):
        self.on_verdict(
            Verdict(
                job_id=f"j{number}", line="belt", category="c", part_id=f"n{number}", decision=decision, score=score,
                scores=Scores(max=score, topk10=score), thresholds=LIMITS, device="cpu:0", worker="w", attempt=1,
                received_at=NOW, decided_at=NOW, number=number,
            )
        )  # fmt: skip

    def result(self, number, result, code, at=10.02):
        self.event("result", at=at, number=number, result=result, code=code)

    def drop(self, number, where, kind="good"):
        self.event("bin", part=number, bin=where, picture=f"test/{kind}/{number}.png")


@pytest.fixture
def belt():
    belt = Belt()
    belt.event("permit", permit=True, because=None)
    return belt


def text(lines):
    return ["".join(piece for piece, _ in line) for line in lines]


def drawn(belt, width=100):
    return text(belt_view.drawing(belt, GEOMETRY, 11.0, width, "title"))


def test_a_part_moves_from_the_camera_to_the_arm(belt):
    belt.trigger(1)
    at_camera = drawn(belt)[3].index("·")
    belt.event("belt", count=5000)
    halfway = drawn(belt)[3].index("·")
    belt.event("belt", count=10150)
    assert at_camera < halfway < drawn(belt)[3].index("·") == drawn(belt)[4].index("▼")


@pytest.mark.parametrize(
    ("decision", "sign"), [(Decision.PASS, "✓"), (Decision.REVIEW, "?"), (Decision.FAIL, "✗"), (Decision.ERROR, "✗")]
)
def test_a_judged_part_has_the_sign_of_its_verdict(belt, decision, sign):
    belt.trigger(1)
    belt.judge(1, decision, 870.0)
    assert sign in drawn(belt)[3]
    assert "·" not in drawn(belt)[3]


@pytest.mark.parametrize(
    ("decision", "score", "code", "reason"),
    [
        (Decision.FAIL, 1520.4, Code.FAIL, "defect: score 1520, fails from 900"),
        (Decision.REVIEW, 870.0, Code.REVIEW, "doubtful: score 870, passes below 850, fails from 900"),
        (Decision.PASS, 400.0, Code.NO_VERDICT, "no verdict in time"),
        (None, None, Code.NO_VERDICT, "no verdict in time"),
        (None, None, Code.UNANNOUNCED, "no picture came from the camera"),
        (None, None, Code.OTHER, "no result for the PLC"),
    ],
)
def test_each_reject_has_its_reason(belt, decision, score, code, reason):
    belt.trigger(1)
    if decision is not None:
        belt.judge(1, decision, score)
    belt.result(1, Result.REJECT, code)
    belt.drop(1, Bin.REJECT)
    assert belt_view.sentence(belt.finished[0]) == f"part     1  reject bin  {reason}"
    assert drawn(belt)[-1].endswith(reason)


def test_a_passed_part_that_a_plc_without_heartbeat_rejects_says_so(belt):
    belt.trigger(1)
    belt.judge(1, Decision.PASS, 400.0)
    belt.result(1, Result.ACCEPT, Code.PASS)
    belt.event("permit", permit=False, because="watchdog")
    belt.event("decision", number=1, accept=False)
    belt.drop(1, Bin.REJECT)
    assert belt.finished[0].reason == "passed, but the PLC rejects everything (watchdog)"
    assert "the PLC rejects everything: watchdog" in drawn(belt)[8]


def test_the_last_table_counts_defects_that_were_judged_pass_apart(belt):
    for number, kind in ((1, "good"), (2, "defect")):
        belt.trigger(number)
        belt.judge(number, Decision.PASS, 400.0)
        belt.result(number, Result.ACCEPT, Code.PASS)
        belt.drop(number, Bin.GOOD, kind)
    rows = dict(belt_view.summary(belt))
    assert rows["parts"] == rows["good bin"] == 2
    assert rows["in the good bin without a verdict pass"] == 0
    assert rows["defects in the good bin, judged pass"] == 1
    assert rows["photo to coil, median in ms"] == pytest.approx(20.0)


def test_a_part_in_the_good_bin_that_did_not_pass_is_found(belt):
    belt.trigger(1)
    belt.drop(1, Bin.GOOD)
    assert [part.number for part in belt.without_pass()] == [1]


def test_a_heartbeat_has_an_age(belt):
    belt.event("heartbeat", at=10.5, value=1)
    assert "heartbeat ♥  0.5 s ago" in drawn(belt)[8]


def test_a_part_that_the_plc_has_not_numbered_is_left_out(belt):
    belt.drop(7, Bin.REJECT)
    assert belt.finished == []
