"""A gate whose arm is a PLC: results, signs of life, the place of a part. No broker, no thread, no sleep."""

import re

import pytest
from structlog.testing import capture_logs

from patchline.gate.decide import NO_VERDICT
from patchline.gate.tracker import MISSED, NO_NUMBER, OTHER_IMAGE, UNANNOUNCED
from patchline.plc.register_map import Bin, GateState, Result
from patchline.protocol.gate_messages import ConfirmationRecord
from patchline.protocol.messages import Decision
from tests.plc_bench import PlcBench
from tests.plc_memory import LAYOUT
from tests.system.test_dashboards import NEED_A_PLC
from tools import dashboard_panels

BENCH = PlcBench


def test_a_verdict_becomes_the_result_of_its_part(serving):
    serving.part("j", number=7, encoder_count=50)
    serving.verdict("j")
    serving.step()
    slot = serving.plc.result(7)
    assert (slot["number"], slot["result"], slot["code"], slot["count"]) == (7, 1, 1, 1050)


def test_a_part_without_a_number_is_rejected_and_needs_no_slot(serving):
    serving.part("j")
    serving.verdict("j")
    serving.step()
    assert serving.reasons() == [NO_NUMBER]


def test_only_a_gate_that_may_act_gives_signs_of_life(bench):
    bench.pass_time(3.0, active=False)
    assert bench.plc.gate_header()["heartbeat"] == 0
    bench.pass_time(3.0)
    first = bench.plc.gate_header()
    assert first["heartbeat"] > 0
    assert first["state"] == GateState.READY
    bench.now += 0.1
    bench.step()
    assert bench.plc.gate_header()["heartbeat"] == first["heartbeat"] + 1


def test_a_blind_gate_says_so_and_a_frozen_one_says_nothing(serving):
    heartbeat = serving.plc.gate_header()["heartbeat"]
    serving.pass_time(30.0, deaf=True)
    header = serving.plc.gate_header()
    assert header["state"] & GateState.BLIND
    assert not header["state"] & GateState.READY
    assert header["heartbeat"] > heartbeat


def test_a_part_that_reaches_the_window_without_a_verdict_is_rejected_before_its_patience_ends(serving):
    serving.part("j", patience_ms=60_000, number=7, encoder_count=0)
    serving.move(899)
    assert serving.result(7) is None
    serving.move(900)
    assert serving.result(7) == (Result.REJECT, 6)
    assert serving.reasons() == [NO_VERDICT]


def test_a_pass_that_comes_behind_the_arm_is_a_missed_reject(serving):
    serving.move(1001)
    serving.verdict("j", number=7, encoder_count=0)
    serving.step()
    assert serving.result(7) == (Result.REJECT, 8)
    assert serving.reasons() == [MISSED]
    assert serving.outcomes() == [(7, "missed")]
    serving.now += 0.1
    serving.step()
    assert serving.plc.gate_header()["missed"] == 1


def test_an_accept_that_the_plc_may_have_read_is_not_reversed_when_it_is_missed(serving):
    serving.plc.memory.fault = "frozen"
    serving.part("j", number=7, encoder_count=0)
    serving.verdict("j")
    serving.step()
    serving.plc.memory.fault = None
    serving.plc.write_header(count=1001)
    serving.pass_time(1.0)
    assert serving.result(7) == (Result.ACCEPT, 1)
    assert serving.outcomes() == [(7, "missed")]


def test_an_accept_that_was_decided_in_time_waits_through_a_stop_of_the_belt(tmp_path):
    bench = PlcBench(tmp_path, release="window")
    bench.pass_time(3.0)
    bench.part("j", patience_ms=1000, number=7, encoder_count=0)
    bench.verdict("j")
    bench.move(500)
    bench.pass_time(10.0)
    assert bench.result(7) is None
    bench.move(900)
    assert bench.result(7) == (Result.ACCEPT, 1)
    bench.memory.close()


def test_a_held_action_does_not_keep_the_gate_busy(tmp_path):
    bench = PlcBench(tmp_path, release="window")
    bench.pass_time(3.0)
    bench.part("j", number=7, encoder_count=0)
    bench.verdict("j")
    bench.move(0)
    assert not bench.service._can_act()
    bench.memory.close()


def test_a_part_that_the_plc_saw_and_nobody_announced_is_rejected_and_recorded(serving):
    serving.plc.trigger(7, count=10)
    serving.move(10)
    serving.now += 0.5
    serving.step()
    assert serving.result(7) == (Result.REJECT, 7)
    assert serving.reasons() == [UNANNOUNCED]
    assert serving.outcomes() == [(7, "unannounced")]
    serving.part("j", number=7, encoder_count=10)
    serving.verdict("j")
    serving.step()
    assert serving.result(7)[0] is Result.REJECT
    assert serving.reasons() == [UNANNOUNCED, UNANNOUNCED]


def test_a_standby_takes_no_action_for_an_unannounced_part_and_forgets_it_when_another_gate_has_acted(bench):
    bench.pass_time(3.0, active=False)
    bench.plc.trigger(7, count=10)
    bench.move(10)
    bench.now += 0.5
    bench.step()
    assert bench.result(7) is None
    assert bench.gate.parts.undone == 1
    bench.act_of_other("unannounced-l-7-10", "done", "reject")
    bench.step()
    assert bench.gate.parts.undone == 0
    assert bench.outcomes() == []


def test_an_escaped_part_is_published_once_by_the_gate_that_serves(tmp_path):
    bench = PlcBench(tmp_path, sensor=1500, sensor_window=50)
    bench.pass_time(3.0)
    bench.part("j", number=7, encoder_count=0)
    bench.verdict("j", Decision.FAIL)
    bench.step()
    bench.move(1551)
    bench.move(1600)
    assert bench.outcomes() == [(7, "escaped")]
    value = bench.metrics.registry.get_sample_value
    assert value("patchline_gate_outcomes_total", {"line": "l", "outcome": "escaped"}) == 1
    bench.memory.close()


def test_a_product_change_is_acknowledged_as_soon_as_it_is_seen_if_the_product_is_known(serving):
    for code, sequence, acknowledged in ((1, 1, (1, 1)), (9, 2, (1, 1))):
        serving.plc.write_header(category=code, category_sequence=sequence)
        serving.now += 0.02
        serving.step()
        header = serving.plc.gate_header()
        assert (header["category"], header["category_sequence"]) == acknowledged


def test_an_unknown_product_is_logged_with_its_line_and_counted_whoever_names_it(serving):
    value = serving.metrics.registry.get_sample_value
    with capture_logs() as logs:
        serving.plc.write_header(category=9, category_sequence=1)
        serving.move(0)
        for number in (1, 2, 3):
            serving.plc.trigger(number, category=8)
            serving.move(0)
        serving.plc.write_header(category=9, category_sequence=2)
        serving.move(0)
    unknown = [log for log in logs if "unknown product" in log["event"]]
    assert [(log["line"], log["code"]) for log in unknown] == [("l", 9), ("l", 8), ("l", 9)]
    assert value("patchline_gate_plc_unknown_products_total", {"line": "l"}) == 5


def test_a_product_of_the_header_that_was_never_counted_is_unknown_at_its_first_part(serving):
    with capture_logs() as logs:
        serving.plc.write_header(category=7)
        serving.move(0)
        assert not any("unknown product" in log["event"] for log in logs)
        serving.plc.trigger(1)
        serving.move(0)
    assert [log["code"] for log in logs if "unknown product" in log["event"]] == [7]


def test_a_plc_that_starts_again_asks_for_no_unknown_product_and_its_next_change_is_acknowledged(serving):
    serving.plc.write_header(category=1, category_sequence=1)
    serving.plc.trigger(1)
    serving.plc.trigger(2)
    serving.move(0)
    with capture_logs() as logs:
        serving.plc.sequences["trigger"] = 1
        serving.plc.write_header(category=0, category_sequence=0)
        serving.move(0)
        serving.plc.write_header(category=1, category_sequence=1)
        serving.move(0)
    assert not any("unknown product" in log["event"] for log in logs)
    assert sum(log["event"] == "product change" for log in logs) == 1


def test_a_plc_that_comes_back_gets_its_results_at_once(serving):
    serving.plc.memory.fault = "frozen"
    serving.part("j", number=7, encoder_count=0, patience_ms=60_000)
    serving.verdict("j")
    serving.pass_time(5.0)
    value = serving.metrics.registry.get_sample_value
    assert value("patchline_gate_output_silent", {"line": "l"}) == 1
    serving.plc.memory.fault = None
    serving.now += 0.3
    serving.step()
    assert value("patchline_gate_output_silent", {"line": "l"}) == 0
    assert serving.result(7) == (Result.ACCEPT, 1)


def test_the_plcs_heartbeat_has_an_age(serving):
    serving.plc.write_header(heartbeat=5)
    serving.now += 0.1
    serving.step()
    serving.now += 3.0
    age = serving.metrics.registry.get_sample_value("patchline_gate_plc_heartbeat_age_seconds", {"line": "l"})
    assert age == pytest.approx(3.0)


def test_rejects_in_a_row_ask_the_plc_to_stop_the_line(tmp_path):
    bench = PlcBench(tmp_path, stop_after_rejects=2)
    bench.pass_time(3.0)
    for number in (1, 2):
        bench.part(f"j{number}", number=number, encoder_count=0)
        bench.verdict(f"j{number}", Decision.FAIL)
        bench.step()
    bench.now += 0.1
    bench.step()
    header = bench.plc.gate_header()
    assert header["state"] & GateState.STOP_LINE
    assert header["rejects_in_row"] == 2
    bench.memory.close()


def test_a_standby_that_heard_no_announcement_drops_its_rejection_when_another_gate_acts_on_the_part(bench):
    bench.pass_time(3.0, active=False)
    bench.plc.trigger(7, count=10)
    bench.move(10)
    bench.now += 0.5
    bench.step()
    bench.act_of_other("j", "done", "accept", number=7)
    bench.step()
    assert bench.gate.parts.undone == 0
    bench.pass_time(6.0)  # it takes over
    assert bench.reasons() == []
    assert bench.result(7) is None


def test_an_action_on_a_part_that_is_gone_leaves_the_slot_to_a_later_part(serving):
    later = 7 + LAYOUT.slots
    serving.part("later", number=later, encoder_count=3000)
    serving.verdict("later")
    serving.move(3000)
    serving.part("gone", number=7, encoder_count=0)
    serving.step()
    assert serving.result(later) == (Result.ACCEPT, 1)
    assert serving.link.acts[-2].stale or serving.link.acts[-1].stale
    assert serving.outcomes() == [(7, "missed")]


def test_an_accept_on_a_belt_that_stood_for_long_is_not_stale(tmp_path):
    bench = PlcBench(tmp_path, release="window")
    bench.pass_time(3.0)
    bench.part("j", patience_ms=1000, number=7, encoder_count=0)
    bench.verdict("j")
    bench.move(500)
    bench.pass_time(100.0)
    bench.move(950)
    assert bench.result(7) == (Result.ACCEPT, 1)
    bench.memory.close()


def test_a_standby_that_takes_over_and_hears_the_announcement_then_does_not_reject_the_part(bench):
    bench.pass_time(3.0, active=False)
    bench.plc.trigger(7, count=10)
    bench.move(10)
    bench.now += 0.5
    bench.step()
    bench.part("j", number=7, encoder_count=10, patience_ms=60_000)
    bench.verdict("j")
    bench.pass_time(6.0)
    assert bench.result(7) == (Result.ACCEPT, 1)
    assert bench.reasons() == ["pass"]


def test_the_queries_of_the_dashboard_for_plcs_find_their_metrics(serving):
    serving.part("j", number=7, encoder_count=0)
    serving.verdict("j")
    serving.move(100)
    names = {sample.name for metric in serving.metrics.registry.collect() for sample in metric.samples}
    titles = {title for title in NEED_A_PLC if not title.startswith("Camera")}
    panels = [panel for panel in dashboard_panels.LINE if panel.title in titles]
    assert len(panels) == len(titles)
    for query in (query for panel in panels for query in panel.queries.values()):
        assert set(re.findall(r"patchline_\w+", query)) <= names


def test_a_plc_that_starts_again_gets_no_result_of_a_part_before(serving):
    serving.plc.trigger(7, count=0)
    serving.move(10)
    serving.part("j", number=7, encoder_count=0, patience_ms=60_000)
    serving.plc.memory.fault = "no current"
    serving.verdict("j")
    serving.pass_time(1.0)
    serving.plc.memory.fault = None
    serving.plc.memory.words[:] = [0] * len(serving.plc.memory.words)
    serving.plc.sequences = {"trigger": 0, "confirmation": 0}
    serving.plc.write_header(count=0)
    serving.pass_time(2.0)
    serving.plc.trigger(7, count=300)
    serving.pass_time(1.0)
    assert serving.result(7)[0] is Result.REJECT
    assert [reason for reason in serving.reasons() if reason == UNANNOUNCED] == [UNANNOUNCED]


def test_a_part_that_was_published_as_unannounced_is_rejected_whatever_comes(serving):
    serving.plc.trigger(7, count=10)
    serving.move(10)
    serving.now += 0.5
    serving.service.step()
    serving.part("j", number=7, encoder_count=10)
    serving.verdict("j")
    serving.step()
    assert serving.result(7)[0] is Result.REJECT
    assert serving.reasons() == [UNANNOUNCED, UNANNOUNCED]


def test_a_gate_that_starts_after_an_outage_tells_its_parts_apart_and_does_not_stop_the_line(tmp_path):
    bench = PlcBench(tmp_path, stop_after_missed=2, stop_after_rejects=2)
    bench.pass_time(3.0)
    for number in range(1, 5):
        bench.part(f"j{number}", number=number, encoder_count=0, patience_ms=60_000)
    bench.step()
    bench.crash()
    bench.now += 10.0
    bench.plc.write_header(count=1500)
    bench.pass_time(3.0)
    assert sorted(bench.outcomes()) == [(number, "unattended") for number in range(1, 5)]
    header = bench.plc.gate_header()
    assert (header["missed"], header["rejects_in_row"]) == (0, 0)
    assert not header["state"] & GateState.STOP_LINE
    bench.memory.close()


def test_parts_that_a_plc_could_not_confirm_because_it_was_off_are_unconfirmed(tmp_path):
    bench = PlcBench(tmp_path, sensor=1500, sensor_window=50)
    bench.pass_time(3.0)
    bench.part("j", number=7, encoder_count=0)
    bench.verdict("j", Decision.FAIL)
    bench.step()
    bench.plc.memory.fault = "no current"
    bench.pass_time(2.0)
    bench.plc.memory.fault = None
    bench.move(1551)
    bench.pass_time(1.0)
    assert bench.outcomes() == [(7, "unconfirmed")]
    assert bench.plc.gate_header()["escaped"] == 0
    bench.memory.close()


def images(bench, *job_ids, number=7, patience_ms=60_000):
    """Announce images of one part."""
    for job_id in job_ids:
        bench.part(job_id, number=number, encoder_count=0, patience_ms=patience_ms)
    bench.step()


def test_a_part_is_rejected_if_one_of_its_images_is_whatever_the_others_say(serving):
    images(serving, "a", "b", "c")
    for job_id, decision in (("a", Decision.PASS), ("b", Decision.FAIL), ("c", Decision.PASS)):
        serving.verdict(job_id, decision, number=7, encoder_count=0)
        serving.step()
        assert serving.result(7) is None or serving.result(7)[0] is Result.REJECT
    assert sorted(serving.reasons()) == [OTHER_IMAGE, OTHER_IMAGE, "fail"]


def test_a_part_is_accepted_once_all_of_its_images_are(serving):
    images(serving, "a", "b")
    serving.verdict("a", number=7, encoder_count=0)
    serving.step()
    assert serving.result(7) is None
    assert not serving.service._can_act()
    serving.verdict("b", number=7, encoder_count=0)
    serving.step()
    assert serving.result(7) == (Result.ACCEPT, 1)


def test_a_part_with_an_image_without_a_verdict_is_rejected(serving):
    images(serving, "a", "b", patience_ms=1000)
    serving.verdict("a", number=7, encoder_count=0)
    serving.pass_time(2.0)
    assert serving.result(7)[0] is Result.REJECT
    assert sorted(serving.reasons()) == [OTHER_IMAGE, NO_VERDICT]


def test_a_gate_that_starts_again_knows_which_part_an_earlier_image_has_rejected(serving):
    images(serving, "a")
    serving.verdict("a", Decision.FAIL, number=7, encoder_count=0)
    serving.step()
    serving.crash()
    serving.pass_time(3.0)
    serving.verdict("b", number=7, encoder_count=0)
    serving.step()
    assert serving.result(7)[0] is Result.REJECT
    assert serving.reasons() == ["fail", OTHER_IMAGE]  # the first one is said again


def test_a_part_with_the_number_of_a_rejected_one_is_another_part_after_the_next_trigger(serving):
    serving.plc.trigger(7, count=0)
    serving.move(0)
    images(serving, "a")
    serving.verdict("a", Decision.FAIL, number=7, encoder_count=0)
    serving.step()
    serving.now += 60.0
    serving.pass_time(1.0)
    serving.plc.trigger(7, count=2500)
    serving.move(2500)
    serving.part("b", number=7, encoder_count=2500)
    serving.verdict("b", number=7, encoder_count=2500)
    serving.step()
    assert serving.result(7) == (Result.ACCEPT, 1)


def test_an_accept_that_may_be_done_is_not_repeated_after_another_image_has_rejected_the_part(serving):
    images(serving, "a")
    serving.plc.memory.fault = "frozen"
    serving.verdict("a", number=7, encoder_count=0)
    serving.pass_time(1.0)
    images(serving, "b")
    serving.verdict("b", Decision.FAIL, number=7, encoder_count=0)
    serving.pass_time(1.0)
    serving.plc.memory.fault = None
    for _ in range(20):
        serving.pass_time(0.5)
        assert serving.result(7) is None or serving.result(7)[0] is Result.REJECT
    assert sorted(serving.reasons()) == [OTHER_IMAGE, "fail"]


def test_an_image_that_another_gate_rejected_counts_for_the_part_too(bench):
    bench.pass_time(3.0, active=False)
    bench.act_of_other("a", "done", "reject", number=7, encoder_count=0)
    bench.step()
    bench.pass_time(6.0)  # it takes over
    bench.verdict("b", number=7, encoder_count=0)
    bench.step()
    assert bench.result(7)[0] is Result.REJECT


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("parts_between", [0, 150])  # the belt remembers 100
def test_a_number_that_comes_again_is_another_part_however_long_ago_the_one_before_was(
    serving, parts_between, restarts
):
    serving.plc.trigger(7)
    serving.move(0)
    serving.part("a", number=7)
    serving.verdict("a", Decision.FAIL, number=7)
    serving.step()
    if restarts:
        serving.crash()
        serving.pass_time(3.0)
    for number in range(1000, 1000 + parts_between):
        serving.part(f"j{number}", number=number)
        serving.verdict(f"j{number}", number=number)
        serving.step()
    serving.pass_time(2.0)
    serving.plc.trigger(7, count=500)
    serving.move(500)
    serving.part("b", number=7)
    serving.verdict("b", number=7)
    serving.step()
    assert serving.result(7) == (Result.ACCEPT, 1)


def test_the_gate_that_serves_says_where_the_sensor_saw_each_part_and_each_image_of_it(tmp_path):
    bench = PlcBench(tmp_path, sensor=1500, sensor_window=50)
    bench.pass_time(3.0)
    for job_id, number, decision in (("a", 7, Decision.FAIL), ("b", 7, Decision.FAIL), ("c", 8, Decision.PASS)):
        bench.part(job_id, number=number, encoder_count=0)
        bench.verdict(job_id, decision)
        bench.step()
    bench.plc.confirm(7, Bin.REJECT, 1500)
    bench.plc.confirm(8, Bin.GOOD, 1500)
    bench.move(1500)
    seen = [record for record in bench.link.acts if isinstance(record, ConfirmationRecord)]
    assert [(record.job_id, record.number, record.bin) for record in seen] == [
        ("a", 7, "reject"),
        ("b", 7, "reject"),
        ("c", 8, "good"),
    ]
    assert bench.outcomes() == []
    bench.memory.close()


def test_a_standby_keeps_to_itself_what_the_sensor_saw(tmp_path):
    bench = PlcBench(tmp_path, sensor=1500, sensor_window=50)
    bench.pass_time(3.0, active=False)
    bench.act_of_other("j", "done", "reject", number=7, encoder_count=0)
    bench.step()
    bench.plc.confirm(7, Bin.REJECT, 1500)
    bench.move(1500)
    assert not any(isinstance(record, ConfirmationRecord) for record in bench.link.acts)
    bench.memory.close()
