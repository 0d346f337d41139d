"""Reconciles by job id what was accepted, decided, acted on and dead-lettered during a storm."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from patchline.banks import serving
from patchline.devices import backbone
from patchline.protocol.errors import Unusable
from patchline.protocol.messages import Decision
from patchline.runtime.stopwatch import Stopwatch
from tests.chaos.scene import CATEGORY

OUT = Path("out/chaos.json")


@dataclass
class Reconciliation:
    """Numbers of jobs. `consistent` is the promise of the line."""

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
    archive_rows: int = 0
    archive_missing: int = 0
    archive_double: int = 0
    archive_rejects: int = 0
    rejects_without_picture: int = 0

    @property
    def consistent(self):
        errors = (self.lost, self.wrong, self.acted_twice, self.not_acted, self.unexpected_dead_letters)
        errors += (self.archive_missing, self.archive_double, self.rejects_without_picture)
        return self.accepted == self.decided and not any(errors) and self.dead_letters == self.planted


def reconcile(scene, storm, images, dead_letters, seconds):
    """Compare the output of every process with the decision that each image must get."""
    accepted = scene.accepted()
    expected = _expected_decisions(scene, images)
    acted = Counter(scene.acted())
    wrong = [
        job_id
        for job_id, verdicts in scene.verdicts.items()
        if any(verdict.decision is not expected[verdict.part_id] for verdict in verdicts)
    ]
    planted = {job_id for job_id, part in accepted.items() if expected[part] is Decision.ERROR}
    dead_ids = {letter.message_id for letter in dead_letters}
    return Reconciliation(
        accepted=len(accepted),
        decided=len(accepted.keys() & scene.verdicts.keys()),
        lost=len(accepted.keys() - scene.verdicts.keys()),
        wrong=len(wrong),
        acted_twice=sum(count > 1 for count in acted.values()),
        not_acted=len(accepted.keys() - acted.keys()),
        repeated_verdicts=sum(len(verdicts) - 1 for verdicts in scene.verdicts.values()),
        dead_letters=len(dead_ids),
        planted=len(planted),
        unexpected_dead_letters=len(dead_ids - planted),
        seconds=round(seconds, 1),
        faults=dict(storm.done),
        recovery_s=storm.recovery_s,
        **(scene.archive.reconcile(accepted, images) if scene.archive else {}),
    )


def write(reconciliations):
    """Write all runs, and the sums of their numbers, to `out/chaos.json`."""
    runs = {name: asdict(reconciliation) for name, reconciliation in reconciliations.items()}
    sums = Counter()
    faults = Counter()
    for run in runs.values():
        sums.update({key: value for key, value in run.items() if isinstance(value, int)})
        faults.update(run["faults"])
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({**sums, "faults": faults, "runs": runs}, indent=2) + "\n")


def decider(settings):
    """Return a function that inspects an image in this process and returns the decision."""
    inspector = serving.load(settings, [CATEGORY], backbone.CPU, streams=1)[CATEGORY]
    return partial(_decide, inspector)


def _expected_decisions(scene, images):
    """Inspect all images in this process. Return the decision by part id."""
    decide = decider(scene.settings)
    decision_of_image, decisions = {}, {}
    for path in images.iterdir():
        image = path.read_bytes()
        if path.name.startswith("poison"):
            decisions[path.stem] = Decision.ERROR
            continue
        if image not in decision_of_image:
            decision_of_image[image] = decide(image)
        decisions[path.stem] = decision_of_image[image]
    return decisions


def _decide(inspector, image):
    try:
        return inspector.inspect(image, "image/png", Stopwatch(lambda *_: None).stage).decision
    except Unusable:
        return Decision.ERROR
