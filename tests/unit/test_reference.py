"""The evaluations of the reference application: when an earlier result is used again."""

from dataclasses import replace

from patchline.evaluation import reference
from patchline.evaluation.ran_on import RanOn
from patchline.evaluation.reference import Timing
from patchline.evaluation.report import Report
from patchline.inspection.memory_bank import BankManifest, MemoryBank
from patchline.protocol.messages import Thresholds

RAN_ON = RanOn(device="cpu:0", model="m", model_sha256="0" * 64, precision="f32")
BEFORE, AFTER = Thresholds(review=1.0, fail=2.0), Thresholds(review=1.0, fail=3.0)


def bank(thresholds):
    manifest = BankManifest.model_construct(category="brick", index_sha256="0" * 64, thresholds=thresholds)
    return MemoryBank(None, manifest)


def test_an_earlier_report_is_used_again_until_the_bank_has_other_thresholds():
    report = Report.model_construct(memory_bank=bank(BEFORE).name, ran_on=RAN_ON, thresholds=BEFORE)
    assert reference.is_of(report, bank(BEFORE), RAN_ON)
    assert not reference.is_of(report, bank(AFTER), RAN_ON)


def test_an_earlier_timing_is_used_again_whatever_the_thresholds_are_but_not_of_another_index_or_device():
    timing = Timing.model_construct(memory_bank=bank(BEFORE).name, ran_on=RAN_ON)
    assert reference.is_of(timing, bank(AFTER), RAN_ON)
    assert not reference.is_of(timing, bank(AFTER), RAN_ON.model_copy(update={"device": "ascend:0"}))
    other = bank(AFTER).manifest.model_copy(update={"index_sha256": "1" * 64})
    assert not reference.is_of(timing, replace(bank(AFTER), manifest=other), RAN_ON)
