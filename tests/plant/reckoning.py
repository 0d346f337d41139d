"""Counts which parts lie in which bin, and compares it with what was known of them in time."""

import json
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median

from patchline.plant.belt import Geometry
from patchline.plc.register_map import Bin, Result
from patchline.protocol.gate_messages import Action
from patchline.protocol.messages import Decision

OUT = Path("out/plant.json")
MIN_SHARE = 0.99
MAX_STALL_S = 0.1  # while a part is on its way: the simulator has priority, so all others stand for longer
_BY_WATCHDOG = ("gate_kill", "gate_freeze", "link_freeze")
_BY_OUTPUT = ("plc_freeze", "plc_restart")
_BY_PATIENCE = ("camera_kill", "worker_kill", "broker_kill")


@dataclass
class Reckoning:
    """Numbers of parts, and times in ms.

    Attributes:
        pictures: what the camera saw.
        parts: parts that lie in a bin.
        bad_in_good_bin: parts in the good bin without a verdict `pass` that reached the PLC in time.
        good_in_reject_bin: parts in the reject bin whose verdict was `pass`.
        unnoticed: parts that the PLC has numbered, and on which no gate has acted.
        escaped: parts in the good bin that gates have only rejected.
        opposite_acts: parts that gates have accepted and rejected.
        unconfirmed: numbered parts in the reject bin that no sensor saw there: the PLC was frozen or off, and the gate
            reports them as escaped.
        unnumbered: parts that the PLC has not seen, because it was frozen or off. They are rejected.
        defects_judged_pass: defects in the good bin that were judged `pass`. That is the matter of the memory bank.
        photo_to_coil_ms: from the trigger until the PLC had the result, for parts whose way touches no fault.
        last_result_ms: by fault, until the last accept for a part that was triggered before.
        time_to_safe_ms: by fault, until the arm rejected everything, or all parts that were triggered afterwards.
        passed_outside_faults: parts judged `pass` whose way touches no fault, on a machine that did not stall.
        share_outside_faults: how many of them lie in the good bin.
    """

    pictures: str
    parts: int
    bad_in_good_bin: int
    good_in_reject_bin: int
    unnoticed: int
    escaped: int
    opposite_acts: int
    unconfirmed: int
    unnumbered: int
    defects_judged_pass: int
    passed_outside_faults: int
    share_outside_faults: float
    good_bin: int
    reject_bin: int
    seconds: float
    stalled_s: float
    heartbeat_ms: dict
    photo_to_coil_ms: dict
    last_result_ms: dict
    time_to_safe_ms: dict
    recovery_ms: dict
    faults: dict
    examples: dict = field(default_factory=dict)

    @property
    def is_safe(self):
        """Return True if nothing bad went into the good bin, and a gate acted on each part. No machine is too slow."""
        wrong = (self.bad_in_good_bin, self.unnoticed, self.escaped)
        return self.parts > 0 and not any(wrong)

    @property
    def holds(self):
        """Return True if also no gates contradicted each other, and no good parts were rejected without a cause."""
        return self.is_safe and self.opposite_acts == 0 and self.share_outside_faults >= MIN_SHARE


class Parts:
    """The ledger, by part and by number."""

    def __init__(self, events):
        self.by_kind = defaultdict(list)
        for event in events:
            self.by_kind[event["kind"]].append(event)
        self.bins = {event["part"]: event for event in self.by_kind["bin"]}
        self.triggers = {event["number"]: event for event in self.by_kind["trigger"]}
        self.number_of = {event["part"]: event["number"] for event in self.by_kind["trigger"]}
        self.decisions = {event["number"]: event for event in self.by_kind["decision"]}
        self.confirmed = {event["number"] for event in self.by_kind["confirmation"]}
        self.results = {}
        for event in self.by_kind["result"]:
            self.results.setdefault(event["number"], event)

    def numbers_in(self, where):
        """Return the numbers of the parts in a bin; None for a part without one."""
        return [self.number_of.get(part) for part, event in self.bins.items() if event["bin"] == where]


def reckon(events, audit, faults, pictures):
    """Return the reckoning of a run that is over."""
    parts = Parts(events)
    good, reject = parts.numbers_in(Bin.GOOD), parts.numbers_in(Bin.REJECT)
    passed = {number for number, decisions in audit.verdicts.items() if Decision.PASS in decisions}
    accepted = {event["number"] for event in parts.by_kind["result"] if event["result"] == Result.ACCEPT}
    bad = [number for number in good if number not in passed or number not in accepted]
    unnoticed = parts.triggers.keys() - audit.acts.keys()
    actions = {number: set(acts) for number, acts in audit.acts.items()}
    escaped = [number for number in good if actions.get(number) == {Action.REJECT}]
    opposite = {number for number, kinds in actions.items() if len(kinds) > 1 and number in parts.triggers}
    undisturbed = {number for number in passed & parts.triggers.keys() if _is_undisturbed(parts, number, faults)}
    defects = [part for part, event in parts.bins.items() if event["bin"] == Bin.GOOD and _is_defect(event["picture"])]
    return Reckoning(
        pictures=pictures,
        parts=len(parts.bins),
        bad_in_good_bin=len(bad),
        good_in_reject_bin=len(passed & set(reject)),
        unnoticed=len(unnoticed),
        escaped=len(escaped),
        opposite_acts=len(opposite),
        unconfirmed=sum(number is not None and number not in parts.confirmed for number in reject),
        unnumbered=len(parts.bins.keys() - parts.number_of.keys()),
        defects_judged_pass=sum(parts.number_of.get(part) in passed for part in defects),
        passed_outside_faults=len(undisturbed),
        share_outside_faults=round(len(undisturbed & set(good)) / max(1, len(undisturbed)), 4),
        good_bin=len(good),
        reject_bin=len(reject),
        seconds=round(events[-1]["at"] - events[0]["at"], 1),
        stalled_s=round(sum(event["seconds"] for event in parts.by_kind["stall"]), 1),
        heartbeat_ms=_summary(_heartbeats(parts, faults)),
        photo_to_coil_ms=_summary(_photo_to_coil(parts, undisturbed)),
        last_result_ms=_last_results(parts, faults),
        time_to_safe_ms=_times_to_safe(parts, faults),
        recovery_ms=_by_kind((fault.kind, fault.recovered_at - fault.at) for fault in faults),
        faults=_counts(faults),
        examples={
            "bad_in_good_bin": bad[:5],
            "unnoticed": sorted(unnoticed)[:5],
            "escaped": escaped[:5],
            "opposite_acts": sorted(opposite)[:5],
            "rejected_outside_faults": sorted(undisturbed - set(good))[:20],
        },
    )


def write(reckonings):
    """Write the runs to `out/plant.json`. The keys of the first one, the long run, are also at the top."""
    runs = {name: asdict(reckoning) for name, reckoning in reckonings.items()}
    if runs:
        OUT.parent.mkdir(exist_ok=True)
        OUT.write_text(json.dumps({**next(iter(runs.values())), "runs": runs}, indent=2) + "\n")


def _is_defect(picture):
    return Path(picture).parent.name != "good"


def _is_undisturbed(parts, number, faults):
    """Return True if no fault and no stall of the machine lies between a part's trigger and its fall into a bin."""
    trigger = parts.triggers[number]
    start, end = trigger["at"], parts.bins[trigger["part"]]["at"]
    stalled = sum(event["seconds"] for event in parts.by_kind["stall"] if start <= event["at"] <= end)
    return stalled < MAX_STALL_S and not any(fault.at <= end and start <= fault.recovered_at for fault in faults)


def _heartbeats(parts, faults):
    for before, after in pairwise(event["at"] for event in parts.by_kind["heartbeat"]):
        if not any(fault.at <= after and before <= fault.recovered_at for fault in faults):
            yield after - before


def _photo_to_coil(parts, numbers):
    """Yield the times from a part's trigger until the PLC's program had its result."""
    for number in parts.results.keys() & numbers:
        if parts.results[number]["in_time"]:
            yield parts.results[number]["at"] - parts.triggers[number]["at"]


def _last_results(parts, faults):
    """Return by kind how long after a fault the PLC still got accepts for parts that were triggered before it."""
    accepts = [event for event in parts.by_kind["result"] if event["result"] == Result.ACCEPT]
    times = []
    for fault in faults:
        late = [event["at"] for event in accepts if parts.triggers[event["number"]]["at"] < fault.at < event["at"]]
        times.append((fault.kind, max(late, default=fault.at) - fault.at))
    return _by_kind(times)


def _times_to_safe(parts, faults):
    """Return by kind how long after a fault the arm rejected everything, from the PLC's own events."""
    return _by_kind(
        (fault.kind, safe_at + Geometry().arm_s - fault.at)
        for fault in faults
        if (safe_at := _safe_at(parts, fault)) is not None
    )


def _safe_at(parts, fault):
    """Return when the coil had lost its permission; None if nothing had to be made safe."""
    if fault.kind in _BY_WATCHDOG:
        lost = (event["at"] for event in parts.by_kind["permit"] if not event["permit"])
        return next((at for at in lost if fault.at < at < fault.recovered_at), None)
    coil = parts.by_kind["coil"]
    if fault.kind in _BY_OUTPUT:
        returns = min(event["at"] for event in parts.by_kind["plc"] if event["at"] > fault.at)
        return max((event["at"] for event in coil if fault.at < event["at"] < returns), default=fault.at)
    if fault.kind in _BY_PATIENCE:
        known = [number for number, event in parts.triggers.items() if event["at"] < fault.at]
        last = max((parts.decisions[number]["at"] for number in known if _was_accepted(parts, number)), default=0.0)
        return next((event["at"] for event in coil if event["at"] > max(last, fault.at) and not event["on"]), None)
    return None


def _was_accepted(parts, number):
    return number in parts.decisions and parts.decisions[number]["accept"]


def _by_kind(pairs):
    by_kind = defaultdict(list)
    for kind, seconds in pairs:
        by_kind[kind].append(seconds)
    return {kind: _summary(values) for kind, values in sorted(by_kind.items())}


def _summary(seconds):
    values = sorted(1000 * value for value in seconds)
    if not values:
        return {"n": 0}
    p99 = values[min(len(values) - 1, round(0.99 * (len(values) - 1)))]
    return {"n": len(values), "median": round(median(values), 1), "p99": round(p99, 1), "max": round(values[-1], 1)}


def _counts(faults):
    counts = defaultdict(int)
    for fault in faults:
        counts[fault.kind] += 1
    return dict(sorted(counts.items()))
