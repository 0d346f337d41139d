"""Fits the memory bank of a lesson, and puts it into the store: `patchline fit`, with pictures of what stands out.

The version is recorded in the store at the very end: whenever the process is killed, there is a whole version or none.
"""

from __future__ import annotations

import shutil
from collections import Counter
from contextlib import closing

import numpy as np

from patchline import config
from patchline.banks import fit, opening, review, store
from patchline.banks.choices import Choices
from patchline.banks.fit import Draft
from patchline.banks.recipe import Recipe
from patchline.banks.version_log import SHORT
from patchline.console import audit
from patchline.console.database import ConsoleDatabase
from patchline.console.lesson_files import JudgedDefect, Note, Outlier, Result, Run
from patchline.console.lessons import Lesson
from patchline.devices import backbone
from patchline.evaluation import evaluate, held_out_figures
from patchline.inspection import picture
from patchline.inspection.inspector import Inspector
from patchline.inspection.memory_bank import BankManifest
from patchline.protocol.messages import Decision
from patchline.runtime import terminal
from patchline.runtime.connections import now_ms

_SEED = 0
_STORES = "store"  # a step of ours, after those of `patchline fit`
_DEFECTS = "defects"


def fit_lesson(lesson: Lesson, settings: config.Config, started: Run) -> None:
    """Fit, and publish the version. If pictures stand out that nobody has accepted, show them, and do no more.

    Raises:
        SetupError: as `fit.fit`; or a defect cannot be judged, or the store cannot be written.
    """
    note = lesson.note
    banks = lesson.folder / "bank"
    shutil.rmtree(banks, ignore_errors=True)
    own = settings.model_copy(update={"paths": settings.paths.model_copy(update={"memory_banks": banks})})
    choices = Choices(note.accepted, note.left_out, lesson.folder)

    def tell(step: str, done: int, total: int) -> None:
        lesson.report(started.model_copy(update={"step": step, "done": done, "total": total}))

    with (
        terminal.followed(tell),
        Recipe.open(own, note.category, lesson.good_folder, backbone.CPU, choices, note.trial) as recipe,
        terminal.progress() as progress,
    ):
        recipe, draft = fit.make_clean_draft(recipe, _SEED, progress)
        outliers = _outliers(lesson, recipe, draft)
        result = None if outliers else _result(lesson, recipe, draft, fit.save(recipe, draft, _SEED), progress)
    if result is None:
        lesson.report(started.model_copy(update={"state": "outliers", "outliers": outliers}))
        return
    lesson.report(started.model_copy(update={"step": _STORES}))
    _publish(lesson, settings, note, started.by)
    shutil.rmtree(banks, ignore_errors=True)
    lesson.report(started.model_copy(update={"state": "done", "result": result}))


def _outliers(lesson: Lesson, recipe: Recipe, draft: Draft) -> tuple[Outlier, ...]:
    """Return the pictures that stand out and that nobody has accepted, each drawn with its heat map."""
    tiles = lesson.folder / "tiles"
    shutil.rmtree(tiles, ignore_errors=True)
    if not review.unaccepted_outliers(recipe, draft.held_out):
        return ()
    reviewed, drawn = review.drawn(recipe, draft.held_out, draft.distances)
    tiles.mkdir()
    found = []
    for number, image in enumerate(reviewed):
        if image.verdict == "outlier":
            tile = f"{number}.jpg" if number < len(drawn) else ""
            if tile:
                (tiles / tile).write_bytes(picture.encode_jpeg(drawn[number].picture))
            found.append(Outlier(name=image.name, score=image.score, p_value=image.p_value, tile=tile))
    return tuple(found)


def _result(lesson: Lesson, recipe: Recipe, draft: Draft, bank: BankManifest, progress: terminal.Progress) -> Result:
    """Return how the bank judges: good pictures that were held out, and the defects of the lesson."""
    good = draft.held_out.image_scores(recipe.category.score).astype(np.float64)
    served = store.load(recipe.settings.paths.memory_banks / recipe.name, store.with_pruning)
    inspector = Inspector(recipe.category, recipe.settings.images, recipe.model, served)
    defects = []
    for kind, name in progress.track(lesson.defects(), description=_DEFECTS):
        judged, _, _ = evaluate.inspect_file(inspector, lesson.folder / "defects" / kind / name)
        defects.append(JudgedDefect(kind=kind, name=name, score=judged.score, decision=judged.decision))
    scores = np.array([one.score for one in defects], np.float64)
    passed = sum(one.decision is Decision.PASS for one in defects)
    asked_rate = bank.calibration.false_reject_rate
    return Result(
        version=served.digest or "",
        thresholds=bank.thresholds,
        good_images=bank.good_images,
        good_scores=tuple(good.tolist()),
        flagged=bank.calibration.flagged,
        failed=bank.calibration.failed,
        left_out=dict(Counter(image.reason for image in recipe.good.left_out)),
        defects=tuple(defects),
        figures=held_out_figures.of_defects(good, scores, passed, asked_rate) if defects else None,
    )


def _publish(lesson: Lesson, settings: config.Config, note: Note, by: str) -> None:
    """Store the version, which is not active."""
    why = f"lesson {lesson.id} of the console: {len(lesson.good())} good pictures, chosen by {note.by}"
    versions = opening.versions(settings)
    version, _ = versions.publish(lesson.folder / "bank" / note.category, note.category, by, why)
    with closing(ConsoleDatabase(settings.console.database, now_ms)) as database:
        audit.record(database, by, "bank version made", f"{note.category} {version[:SHORT]}, lesson {lesson.id}")
