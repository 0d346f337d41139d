"""A shadow bank: in the store's log, in a worker that follows it, after the verdict of a lane, and in its report."""

import itertools
import json
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from patchline import config
from patchline.archive import ledger_text
from patchline.archive.ledger_memory import MemoryLedger
from patchline.archive.shadows import ShadowSearch
from patchline.banks import bank_list
from patchline.banks.objects import MemoryObjects
from patchline.banks.version_log import Shadow
from patchline.banks.versions import Versions
from patchline.broker.base import BrokerError
from patchline.inspection.inspector import Inspection
from patchline.operations import shadow_report
from patchline.protocol import topology
from patchline.protocol.errors import SetupError
from patchline.protocol.messages import REPLAY_HEADER, Decision, Scores
from patchline.protocol.shadow_message import parse_shadow
from patchline.worker.bank_switch import BankSwitch
from patchline.worker.shadow import ShadowBank, ShadowMetrics, Shadows
from tests.ledger_contract import OTHER_BANK, entry, shadow
from tests.unit import test_bank_versions, test_lane

NOW = 1_800_000_000_000
WHO, WHY = "anna@host", "because"
SHADOW = "7" * 64
banks = test_bank_versions.banks


@pytest.fixture
def versions():
    opened = Versions(MemoryObjects(), "STORE", itertools.count(NOW).__next__)
    opened.make()
    return opened


def test_a_version_is_made_a_shadow_with_a_share_and_ends_when_it_is_told_to_or_activated(versions, banks):
    first, second, third = test_bank_versions.published(versions, banks)
    versions.activate("brick", first, WHO, WHY)
    versions.shadow("brick", second, 0.25, WHO, WHY)
    state = versions.state("brick")
    assert (state.shadow, state.active) == (Shadow(second, 0.25), first)
    assert [state.state_of(one) for one in (first, second, third)] == ["active", "shadow", "published"]
    for refused, text in (
        (lambda: versions.shadow("brick", second, 0.25, WHO, WHY), "is the shadow already"),
        (lambda: versions.shadow("brick", first, 0.25, WHO, WHY), "is active; a shadow is another version"),
        (lambda: versions.shadow("brick", third, 1.5, WHO, WHY), "share: "),
        (lambda: versions.shadow("brick", third, 0.0, WHO, WHY), "share: "),
        (lambda: versions.retire("brick", second, WHO, WHY), "is the shadow; end it first"),
    ):
        with pytest.raises(SetupError, match=text):
            refused()
    versions.shadow("brick", third, 1.0, "bob@host", WHY)
    assert versions.state("brick").shadow == Shadow(third, 1.0)
    versions.activate("brick", second, WHO, WHY)  # another one: the shadow goes on
    assert versions.state("brick").shadow == Shadow(third, 1.0)
    versions.activate("brick", third, WHO, WHY)
    assert versions.state("brick").shadow is None
    with pytest.raises(SetupError, match="no version is a shadow"):
        versions.end_shadow("brick", WHO, WHY)
    versions.rollback("brick", WHO, WHY)
    versions.shadow("brick", third, 0.5, WHO, WHY)
    assert versions.end_shadow("brick", WHO, WHY) == third
    assert versions.state("brick").shadow is None
    acts = [json.loads(line) for line in bank_list.log(versions, "brick")]
    assert [(act["act"], act.get("share")) for act in acts[-2:]] == [("shadow", 0.5), ("end-shadow", None)]
    assert shadow_report.last_shadow(versions.state("brick"), "brick") == third


class Host(test_bank_versions.Host):
    """A worker's host that also follows shadows."""

    def start(self):
        super().start()
        lock = SimpleNamespace(shared=lambda quiet: nullcontext())
        self.shadows = Shadows(SimpleNamespace(), lock, ShadowMetrics(self.metrics.registry), lambda: NOW)
        values = (self.source, self.versions, self.inspectors, lock, self.metrics, "w", 1.0)
        self.switch = BankSwitch(*values, lambda: NOW, lambda: self.now, self.shadows)

    def shadow_metric(self, name, **labels):
        return self.metrics.registry.get_sample_value(f"patchline_shadow_bank_{name}", {"category": "brick"} | labels)


def test_a_worker_loads_the_shadow_beside_its_bank_and_lets_it_go(versions, banks, tmp_path):
    first, second, third = test_bank_versions.published(versions, banks)
    versions.activate("brick", first, WHO, WHY)
    host = Host(tmp_path / "host", versions._objects)
    host.start()
    versions.shadow("brick", second, 0.25, WHO, WHY)
    host.switch.step()
    loaded = host.shadows.get("brick")
    assert (host.serves, loaded.version, loaded.share) == (first, second, 0.25)
    assert host.shadow_metric("info", version=second[:12]) == 1
    versions.shadow("brick", second, 0.75, WHO, WHY)
    host.switch.step()
    assert host.shadows.get("brick").inspector is loaded.inspector
    assert host.shadows.get("brick").share == 0.75
    versions.shadow("brick", third, 1.0, WHO, WHY)
    host.switch.step()
    assert host.shadow_metric("info", version=second[:12]) is None
    versions.activate("brick", third, WHO, WHY)  # promoted
    host.switch.step()
    assert (host.serves, host.shadows.get("brick")) == (third, None)
    versions.shadow("brick", second, 1.0, WHO, WHY)
    host.switch.step()
    versions.activate("brick", first, WHO, WHY)
    host.switch.step()
    assert (host.copies.folder / "brick" / second).is_dir()
    versions.end_shadow("brick", WHO, WHY)
    host.switch.step()
    assert host.shadows.get("brick") is None
    said = [json.loads(line) for line in bank_list.log(versions, "brick") if "worker" in line]
    assert [one["state"] for one in said if "shadow" in one["state"]] == ["shadow"] * 3


def test_a_worker_that_cannot_load_the_shadow_says_so_once_tries_again_and_serves_on(versions, banks, tmp_path):
    first, second, third = test_bank_versions.published(versions, banks)
    versions.activate("brick", first, WHO, WHY)
    host = Host(tmp_path / "host", versions._objects)
    host.start()
    host.refused = {second}
    versions.shadow("brick", second, 1.0, WHO, WHY)
    for now in (100.0, 159.0, 160.0):
        host.now = now
        host.switch.step()
    assert host.loaded == [first, second, second]
    assert (host.serves, host.shadows.get("brick"), host.shadow_metric("not_loaded")) == (first, None, 1)
    (report,) = [json.loads(line) for line in bank_list.log(versions, "brick") if "worker" in line]
    assert (report["state"], report["reason"]) == ("shadow refused", "golden images have other scores")
    host.refused, host.now = set(), 220.0
    host.switch.step()
    assert (host.shadows.get("brick").version, host.shadow_metric("not_loaded")) == (second, 0)
    host.refused = {third}
    versions.shadow("brick", third, 1.0, WHO, WHY)
    host.switch.step()
    assert (host.shadows.get("brick"), host.shadow_metric("not_loaded")) == (None, 1)
    versions.end_shadow("brick", WHO, WHY)
    host.switch.step()
    assert host.shadow_metric("not_loaded") == 0


class Line(test_lane.Line):
    """A lane with a shadow that fails what its bank passes."""

    def __init__(self, share=1.0):
        super().__init__()
        self.broker.declare(topology.ledger(100))
        self.shadows = Shadows(self.broker, self.lane.lock, ShadowMetrics(self.metrics.registry), lambda: NOW + 9)
        self.lane = replace(self.lane, shadows=self.shadows)
        self.inspector.outcome = replace(self.inspector.outcome, patches=np.ones((2, 3), np.float32))
        self.seen = []
        self.shadows.set("bottle", ShadowBank(SimpleNamespace(judge=self.judge), SHADOW, share))

    def judge(self, patches):
        assert len(self.messages(topology.VERDICTS)) == 1  # it is out already
        self.seen.append(patches)
        return Decision.FAIL, 7.5

    def said(self):
        return [parse_shadow(delivery.message) for delivery in self.messages(topology.LEDGER)]

    def skipped(self, reason):
        return self.value("patchline_shadow_skipped_total", category="bottle", reason=reason)


def test_a_shadow_judges_the_features_of_the_verdict_after_it_is_out_and_tells_the_archive():
    line = Line()
    line.send()
    line.step()
    assert line.seen == [line.inspector.outcome.patches]
    (said,) = line.said()
    assert (said.job_id, said.line, said.category, said.part_id) == ("j1", "l", "bottle", "p")
    assert (said.bank_version, said.decision, said.score) == ("5" * 64, Decision.PASS, 1.0)
    assert (said.shadow_version, said.shadow_decision, said.shadow_score) == (SHADOW, Decision.FAIL, 7.5)
    assert line.value("patchline_shadow_judged_total", category="bottle") == 1
    line.inspector.bank.digest = SHADOW  # it serves now, and the switch has not let it go yet
    line.send("j2")
    line.send("j3", **{REPLAY_HEADER: True})
    line.step()
    line.step()
    assert len(line.seen) == 1


def test_a_shadow_judges_its_share_the_same_images_each_time():
    judged = []
    for _ in range(2):
        line = Line(share=0.25)
        for number in range(40):
            line.send(f"j{number}")
            line.step()
            line.messages(topology.VERDICTS)
        judged.append([one.job_id for one in line.said()])
    assert judged[0] == judged[1]
    assert 3 <= len(judged[0]) <= 20


def test_a_shadow_is_skipped_while_jobs_need_the_cores():
    line = Line()
    line.send()
    with line.lane.lock.shared():
        line.step()
    assert (line.seen, line.skipped("busy"), len(line.verdicts())) == ([], 1, 1)
    line.send("j2")
    line.lane.in_hand.add("of another lane")  # which waits for its confirmation
    line.step()
    assert (line.seen, line.skipped("busy"), len(line.verdicts())) == ([], 2, 1)


def test_a_shadow_that_fails_or_is_not_heard_costs_no_verdict():
    line = Line()
    line.shadows.set("bottle", ShadowBank(SimpleNamespace(judge=lambda patches: 1 / 0), SHADOW, 1.0))
    line.send("j1")
    line.step()
    assert (line.skipped("failed"), [one.job_id for one in line.verdicts()]) == (1, ["j1"])
    nowait = line.broker.publish_nowait

    def refuse(outgoing):
        if outgoing[0].exchange == topology.SHADOWS:
            raise BrokerError("the connection is closed")
        return nowait(outgoing)

    line.shadows.set("bottle", ShadowBank(SimpleNamespace(judge=line.judge), SHADOW, 1.0))
    line.broker.publish_nowait = refuse
    line.send("j2")
    line.step()
    assert line.skipped("unsent") == 1
    assert not line.lane.jobs._unsettled
    assert line.shadows._unconfirmed == 0


def test_what_rabbitmq_does_not_confirm_is_bounded():
    line, waiting = Line(), []

    def silent(outgoing):
        waiting.append(Future())
        return waiting[-1]

    line.shadows._broker = SimpleNamespace(publish_nowait=silent)
    inspection = Inspection(Decision.PASS, 1.0, Scores(max=2.0, topk10=1.0), (), None, patches=np.ones((2, 3)))
    line.send()
    line.shadows.set("bottle", None)
    line.step()
    (verdict,) = line.verdicts()
    line.shadows.set("bottle", ShadowBank(SimpleNamespace(judge=lambda _: (Decision.PASS, 1.0)), SHADOW, 1.0))
    for _ in range(1001):
        line.shadows.judge(verdict, inspection, 0)
    assert (len(waiting), line.skipped("unsent")) == (1000, 1)
    waiting[0].set_result(None)
    line.shadows.judge(verdict, inspection, 0)
    assert len(waiting) == 1001


def test_the_report_has_a_table_for_each_bank_the_exact_test_and_the_parts_by_name(plant):
    archive, gate = MemoryLedger(), config.load(plant / "config.yaml").gate
    other = "3" * 64
    rows = [shadow(f"both-{number}", "fail") for number in range(4)]
    rows += [shadow(f"bank-{number}", "pass") for number in range(1)]
    rows += [shadow(f"shadow-{number}", "fail", decision="pass") for number in range(9)]
    rows += [shadow(f"none-{number}", "pass", decision="pass") for number in range(3)]
    rows += [shadow("doubtful", "review"), shadow("before", "fail", decision="pass", bank_version=other)]
    archive.save_ledger([entry(row) for row in rows], [])
    report = shadow_report.make(archive, ShadowSearch("brick", OTHER_BANK), gate, None)
    counts = {
        table.bank_version: (table.both, table.bank_only, table.shadow_only, table.neither) for table in report.tables
    }
    assert sorted(counts.values()) == [(0, 0, 1, 0), (5, 1, 9, 3)]
    assert report.tables[-1].p_value == pytest.approx(22 / 1024) or report.tables[0].p_value == pytest.approx(22 / 1024)
    named = {row.job_id for row in report.different}
    assert named == {"bank-0", "doubtful", "before", *(f"shadow-{number}" for number in range(9))}
    text = str(report)
    assert "9 accepted, and the shadow would have rejected them" in text
    assert "p = 0.0215; the shadow rejects more, beyond chance" in text
    assert "p = 1; these parts do not show that one of them rejects more" in text
    assert "part part-of-bank-0, job bank-0, line l1: fail (score 1200.1), shadow pass (score 0.3)" in text
    short = shadow_report.make(archive, ShadowSearch("brick", OTHER_BANK), gate, 2)
    assert "2 parts with two decisions, and more: see --most:" in str(short)
    accepting = gate.model_copy(update={"review_action": "accept"})
    tables = shadow_report.make(archive, ShadowSearch("brick", OTHER_BANK), accepting, None).tables
    assert sum(table.bank_only for table in tables) == 2  # the doubtful part, too
    assert "no part that the shadow" in str(shadow_report.make(archive, ShadowSearch("brick", "4" * 64), gate, 5))
    (page,) = ledger_text.pages(archive, "bank-0", NOW, 5)
    assert [event.text for event in page.events] == [
        f"the shadow bank {OTHER_BANK[:12]} would have said pass, score 0.3"
    ]
