"""After a storm: what was accepted, decided, acted on and dead-lettered, reconciled by job id."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from patchline.banks import serving
from patchline.devices import backbone
from patchline.protocol.errors import Unusable
from patchline.protocol.messages import Decision
from patchline.runtime.stopwatch import Stopwatch
from tests.chaos.scene import CATEGORY

OUT = Path("out/chaos.json")


@dataclass
class Reckoning:
    """Counts of jobs; `sound` is the promise."""

    accepted: int
    decided: int
    lost: int
    wrong: int
    acted_twice: int
    not_acted: int
    repeated_verdicts: int
    dead_letters: int
    planted: int
    unexpected_dead_letters: int
    seconds: float
    faults: dict
    recovery_s: dict = field(default_factory=dict)

    @property
    def sound(self):
        faults = (self.lost, self.wrong, self.acted_twice, self.not_acted, self.unexpected_dead_letters)
        return self.accepted == self.decided and not any(faults) and self.dead_letters == self.planted


def reckon(scene, storm, pictures, dead, seconds):
    """Compare what every process said with what each picture must get."""
    accepted = {}
    for record in map(json.loads, scene.said("publisher").splitlines()):
        accepted[record["job_id"]] = record["part_id"]
    expected = _expected(scene, pictures)
    acted = Counter(json.loads(each)["job_id"] for each in scene.said("gate").splitlines())
    wrong = [
        job_id
        for job_id, verdicts in scene.verdicts.items()
        if any(each.decision is not expected[each.part_id] for each in verdicts)
    ]
    planted = {job_id for job_id, part in accepted.items() if expected[part] is Decision.ERROR}
    dead_ids = {letter.message_id for letter in dead}
    return Reckoning(
        accepted=len(accepted),
        decided=len(accepted.keys() & scene.verdicts.keys()),
        lost=len(accepted.keys() - scene.verdicts.keys()),
        wrong=len(wrong),
        acted_twice=sum(count > 1 for count in acted.values()),
        not_acted=len(accepted.keys() - acted.keys()),
        repeated_verdicts=sum(len(each) - 1 for each in scene.verdicts.values()),
        dead_letters=len(dead_ids),
        planted=len(planted),
        unexpected_dead_letters=len(dead_ids - planted),
        seconds=round(seconds, 1),
        faults=dict(storm.done),
        recovery_s=storm.recovery_s,
    )


def write(reckonings):
    """All runs, and their sums, to `out/chaos.json`."""
    runs = {name: asdict(each) for name, each in reckonings.items()}
    sums = Counter()
    faults = Counter()
    for run in runs.values():
        sums.update({key: value for key, value in run.items() if isinstance(value, int)})
        faults.update(run["faults"])
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({**sums, "faults": faults, "runs": runs}, indent=2) + "\n")


def _expected(scene, pictures):
    """The decision of each part: judged here, in one quiet process."""
    device = backbone.CPU
    inspector = serving.load(scene.settings, [CATEGORY], device, streams=1)[CATEGORY]
    known, decisions = {}, {}
    for path in pictures.iterdir():
        image = path.read_bytes()
        if path.name.startswith("poison"):
            decisions[path.stem] = Decision.ERROR
            continue
        if image not in known:
            known[image] = _decide(inspector, image)
        decisions[path.stem] = known[image]
    return decisions


def _decide(inspector, image):
    try:
        return inspector.inspect(image, "image/png", Stopwatch(lambda *_: None).stage).decision
    except Unusable:
        return Decision.ERROR
