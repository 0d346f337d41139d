"""Counts which parts lie in which bin, and compares it with what was known of them in time."""

import json
import re
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import median

from patchline.gate.tracker import UNATTENDED
from patchline.plant.belt import Geometry
from patchline.plc.register_map import Bin, Result
from patchline.protocol.gate_messages import Action
from patchline.protocol.messages import Decision
from tests.plant.goods import digest

OUT = Path("out/plant.json")
MIN_SHARE = 0.99
MAX_STALL_S = 0.1  # while a part is on its way: the simulator has priority, so all others stand for longer
_BY_WATCHDOG = ("gate_kill", "gate_freeze", "link_freeze")
_BY_OUTPUT = ("plc_freeze", "plc_restart", "plc_reset")
_BY_PATIENCE = ("camera_kill", "camera_freeze", "camera_loss", "worker_kill", "broker_kill")
_UNREAD_S = 0.5  # a PLC that loses its memory may have triggers that nobody has read yet
MERGED = "merged"
# Why parts have no image, by words of the verdicts.
_CAUSES = {
    MERGED: r"trigger before",  # two triggers, one exposure
    "late trigger": r"triggered (up to|at an unknown time|another part)|had moved|too late \(camera.trigger",
    "late or no frame": r"no frame|has not answered|too late \(camera.frame",
    "broken frame": r"incomplete",
    "camera lost": r"camera is (lost|not open)|does not answer|has ended",
    "process ended": r"process of the camera ended",
}


@dataclass
class Reckoning:
    """Numbers of parts, and times in ms.

    Attributes:
        pictures: what the camera saw.
        camera: what took the pictures (eyes.py).
        parts: parts that lie in a bin.
        bad_in_good_bin: parts in the good bin without a verdict `pass` that reached the PLC in time.
        good_in_reject_bin: parts in the reject bin whose verdict was `pass`.
        unnoticed: parts that the PLC has numbered, and of which no gate has a record.
        forgotten: parts of which there is no record because the PLC lost its memory right after it had numbered them.
        unattended: parts on which no gate has acted, and which a gate has recorded afterwards: the PLC rejected them.
        overwritten: those of them whose trigger was overwritten before it was read.
        foreign_pictures: parts with the picture of another part, which is what lay before the camera when it was taken.
        no_image: verdicts that there is no picture, by cause.
        escaped: parts in the good bin that gates have only rejected.
        opposite_acts: parts that gates have accepted and rejected.
        unconfirmed: numbered parts in the reject bin that no sensor saw there, because the PLC was frozen or off.
        unnumbered: parts that the PLC has not seen, because it was frozen or off. They are rejected.
        defects_judged_pass: defects in the good bin that were judged `pass`. That is the matter of the memory bank.
        photo_to_coil_ms: from the trigger until the PLC had the result, for parts whose way touches no fault.
        last_result_ms: by fault, until the last accept for a part that was triggered before.
        time_to_safe_ms: by fault, until the arm rejected everything, or all parts that were triggered afterwards.
        passed_outside_faults: parts judged `pass` whose way touches no fault, on a machine that did not stall.
        share_outside_faults: how many of them lie in the good bin.
        outcomes: what the gates say became of parts.
        archive: what the archive holds (archived.py): each job has one row, and each reject its picture.
    """

    pictures: str
    camera: str
    parts: int
    bad_in_good_bin: int
    good_in_reject_bin: int
    unnoticed: int
    forgotten: int
    foreign_pictures: int
    unattended: int
    overwritten: int
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
    outcomes: dict
    no_image: dict
    faults: dict
    archive: dict = field(default_factory=dict)
    examples: dict = field(default_factory=dict)

    @property
    def is_safe(self):
        """Return True if nothing bad went into the good bin, and each part has its records. No machine is too slow."""
        wrong = [self.bad_in_good_bin, self.unnoticed, self.escaped, self.foreign_pictures]
        wrong += [self.archive.get(name, 0) for name in ("missing", "twice", "without_picture", "foreign_pictures")]
        return self.parts > 0 and not any(wrong)

    @property
    def holds(self):
        """Return True if also no gates contradicted each other, and no good parts were rejected without a cause."""
        return self.is_safe and self.opposite_acts == 0 and self.share_outside_faults >= MIN_SHARE


class Parts:
    """Ledger and audit by part: its number, and the encoder's count at its trigger. A PLC may use a number again."""

    def __init__(self, events, audit):
        self.by_kind, self._keys = defaultdict(list), defaultdict(list)
        for event in events:
            if event["kind"] == "trigger":
                self._keys[event["number"]].append((event["number"], event["count"]))
            if "number" in event:
                keys = self._keys.get(event["number"])
                event = event | {"key": keys[-1] if keys else None}
            self.by_kind[event["kind"]].append(event)
        self.bins = {event["part"]: event for event in self.by_kind["bin"]}
        self.triggers = {event["key"]: event for event in self.by_kind["trigger"]}
        self.key_of = {event["part"]: event["key"] for event in self.by_kind["trigger"]}
        self.decisions = {event["key"]: event for event in self.by_kind["decision"]}
        self.confirmed = {event["key"] for event in self.by_kind["confirmation"]}
        self.results = {}
        for event in self.by_kind["result"]:
            self.results.setdefault(event["key"], event)
        self.acts = defaultdict(set)  # actions and reasons
        for number, count, action, because in sorted(audit.acts, key=lambda act: act[1] is None):
            self.acts[self._key(number, count)].add((action, because))
        self.passed = {
            self._key(number, count) for number, count, decision in audit.verdicts if decision is Decision.PASS
        }

        self.foreign = {
            key
            for key, seen in ((self._key(number, count), seen) for number, count, seen in audit.pictures)
            if key in self.triggers and seen != _digest_of(self.bins[self.triggers[key]["part"]]["picture"])
        }

    def keys_in(self, where):
        """Return the keys of the parts in a bin; None for a part without a number."""
        return [self.key_of.get(part) for part, event in self.bins.items() if event["bin"] == where]

    @property
    def without_record(self):
        """The parts that the PLC has numbered, and of which no gate has a record."""
        return self.triggers.keys() - self.acts.keys()

    def _key(self, number, count):
        """Return the part that a message means. One without a count means a part that has no record yet, if any."""
        keys = self._keys.get(number, [])
        if count is not None or not keys:
            return number, count
        return next((key for key in keys if key not in self.acts), keys[-1])


def unnoticed(parts, faults):
    """Return the parts without a record that somebody could know of."""
    resets = [fault.at for fault in faults if fault.kind == "plc_reset"]
    read = {key for key in parts.triggers if not any(0 <= at - parts.triggers[key]["at"] < _UNREAD_S for at in resets)}
    return parts.without_record & read


def reckon(events, audit, faults, pictures, camera="files", archive=None):
    """Return the reckoning of a run that is over."""
    parts = Parts(events, audit)
    good, reject = parts.keys_in(Bin.GOOD), parts.keys_in(Bin.REJECT)
    accepted = {event["key"] for event in parts.by_kind["result"] if event["result"] == Result.ACCEPT}
    actions = {key: {action for action, _ in acts} for key, acts in parts.acts.items()}
    unattended = {act[:2] for act in audit.acts if act[3] == UNATTENDED}
    lists = {
        "bad_in_good_bin": [key for key in good if key not in parts.passed & accepted - parts.foreign],
        "foreign_pictures": sorted(parts.foreign),
        "unnoticed": sorted(unnoticed(parts, faults)),
        "escaped": [key for key in good if actions.get(key) == {Action.REJECT}],
        "opposite_acts": sorted(key for key, kinds in actions.items() if len(kinds) > 1 and key in parts.triggers),
    }
    undisturbed = {key for key in parts.passed & parts.triggers.keys() if _is_undisturbed(parts, key, faults)}
    defects = [part for part, event in parts.bins.items() if event["bin"] == Bin.GOOD and _is_defect(event["picture"])]
    return Reckoning(
        pictures=pictures,
        camera=camera,
        parts=len(parts.bins),
        **{name: len(keys) for name, keys in lists.items()},
        good_in_reject_bin=len(parts.passed & set(reject)),
        forgotten=len(parts.without_record - unnoticed(parts, faults)),
        unattended=len(unattended),
        overwritten=sum(count is None for _, count in unattended),
        unconfirmed=sum(key is not None and key not in parts.confirmed for key in reject),
        unnumbered=len(parts.bins.keys() - parts.key_of.keys()),
        defects_judged_pass=sum(parts.key_of.get(part) in parts.passed for part in defects),
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
        outcomes=_counts(outcome for _, outcome in audit.outcomes),
        no_image=_counts(_cause(detail) for *_, detail in audit.no_image),
        faults=_counts(fault.kind for fault in faults),
        archive=archive or {},
        examples={name: keys[:5] for name, keys in lists.items()}
        | {"rejected_outside_faults": sorted(undisturbed - set(good))[:20]},
    )


def write(reckonings):
    """Write the runs to `out/plant.json`. The keys of the first one, the long run, are also at the top."""
    runs = {name: asdict(reckoning) for name, reckoning in reckonings.items()}
    if runs:
        OUT.parent.mkdir(exist_ok=True)
        OUT.write_text(json.dumps({**next(iter(runs.values())), "runs": runs}, indent=2) + "\n")


@cache
def _digest_of(picture):
    return digest(Path(picture).read_bytes())


def _cause(detail):
    return next((cause for cause, words in _CAUSES.items() if re.search(words, detail)), "other")


def _is_defect(picture):
    return Path(picture).parent.name != "good"


def _is_undisturbed(parts, key, faults):
    """Return True if no fault and no stall of the machine lies between a part's trigger and its fall into a bin."""
    trigger = parts.triggers[key]
    start, end = trigger["at"], parts.bins[trigger["part"]]["at"]
    stalled = sum(event["seconds"] for event in parts.by_kind["stall"] if start <= event["at"] <= end)
    return stalled < MAX_STALL_S and not any(fault.at <= end and start <= fault.recovered_at for fault in faults)


def _heartbeats(parts, faults):
    for before, after in pairwise(event["at"] for event in parts.by_kind["heartbeat"]):
        if not any(fault.at <= after and before <= fault.recovered_at for fault in faults):
            yield after - before


def _photo_to_coil(parts, keys):
    """Yield the times from a part's trigger until the PLC's program had its result."""
    for key in parts.results.keys() & keys:
        if parts.results[key]["in_time"]:
            yield parts.results[key]["at"] - parts.triggers[key]["at"]


def _last_results(parts, faults):
    """Return by kind how long after a fault the PLC still got accepts for parts that were triggered before it."""
    accepts = [event for event in parts.by_kind["result"] if event["result"] == Result.ACCEPT]
    times = []
    for fault in faults:
        late = [event["at"] for event in accepts if parts.triggers[event["key"]]["at"] < fault.at < event["at"]]
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
        known = [key for key, event in parts.triggers.items() if event["at"] < fault.at]
        last = max((parts.decisions[key]["at"] for key in known if _was_accepted(parts, key)), default=0.0)
        since = max(last, fault.at)
        off = (event["at"] for event in coil if since < event["at"] < fault.recovered_at and not event["on"])
        return next(off, since)  # it was off already
    return None


def _was_accepted(parts, key):
    return key in parts.decisions and parts.decisions[key]["accept"]


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


def _counts(kinds):
    return dict(sorted(Counter(kinds).items()))
