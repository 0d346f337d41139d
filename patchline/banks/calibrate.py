"""New thresholds for a memory bank without a fit, from its held-out images and, if there are any, from defects."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydantic
from numpy.typing import NDArray

from patchline import config
from patchline.banks import calibration, serving, store
from patchline.banks.calibration import Target
from patchline.banks.held_out import HeldOut
from patchline.devices import backbone
from patchline.inspection import score
from patchline.inspection.inspector import Inspector, untimed
from patchline.inspection.memory_bank import BankManifest
from patchline.protocol import image_files, messages
from patchline.protocol.errors import SetupError, Unusable
from patchline.protocol.messages import Scores
from patchline.runtime import terminal


@dataclass(frozen=True)
class Costs:
    """What mistakes cost, in any unit, and how many parts have a defect."""

    missed: float
    rejected: float
    defect_share: float


DefectTarget = float | Costs  # the share of defects that may pass, or what mistakes cost


def parse_defect_target(
    max_missed: float | None, cost_missed: float | None, cost_rejected: float | None, defect_share: float | None
) -> DefectTarget | None:
    """What the options of a command line demand of defects; None if they demand nothing.

    Raises:
        SetupError: they name a part of the costs, a share and costs, or values without a meaning.
    """
    if max_missed is not None and not 0 < max_missed < 1:
        raise SetupError(f"--max-missed is {max_missed}; it is a share between 0 and 1")
    if cost_missed is None and cost_rejected is None and defect_share is None:
        return max_missed
    if max_missed is not None:
        raise SetupError("--max-missed and costs are two ways to choose a threshold; name one")
    if cost_missed is None or cost_rejected is None or defect_share is None:
        raise SetupError("costs need all of --cost-missed, --cost-rejected and --defect-share")
    if not all(0 < cost < math.inf for cost in (cost_missed, cost_rejected)) or not 0 < defect_share < 1:
        raise SetupError("costs are above 0, and --defect-share is between 0 and 1")
    return Costs(cost_missed, cost_rejected, defect_share)


def target_of(settings: config.Config, name: str, changed: Mapping[str, float]) -> Target:
    """The target of a category with some rates changed.

    Raises:
        SetupError: a rate is no share, or the review rate is below the false-reject rate.
    """
    category = settings.category(name)
    try:
        return Target.of(config.Category.model_validate(category.model_dump() | dict(changed)))
    except pydantic.ValidationError as error:
        raise SetupError(messages.describe(error)) from error


def as_keys(rates: Mapping[str, float]) -> str:
    """Rates as keys of the configuration."""
    return ", ".join(f"{name}: {rate:g}" for name, rate in rates.items())


def calibrate(settings: config.Config, name: str, target: Target) -> tuple[BankManifest, BankManifest]:
    """Calibrate a bank for other rates, and save its manifest. Workers serve it after a restart. A trial stays one.

    Args:
        settings: the configuration.
        name: of the category.
        target: the rates and the rule.

    Returns:
        The manifests before and after.

    Raises:
        SetupError: the bank is damaged, has no held-out images, or too few of them for a rate.
    """
    before, held_out = _read(settings, name)
    target = replace(target, trial=before.thresholds.trial is True)
    thresholds, calibrated = calibration.calibrate(held_out, before.score, target, before.calibration.method)
    after = before.model_copy(update={"thresholds": thresholds, "calibration": calibrated})
    store.replace_manifest(settings.paths.memory_banks / name, after)
    return before, after


def calibrate_on_defects(
    settings: config.Config,
    name: str,
    target: Target,
    defect_target: DefectTarget,
    folder: Path,
    device: backbone.Device,
) -> tuple[BankManifest, BankManifest]:
    """Calibrate the flagging of a bank on images of defects, and save its manifest.

    The review threshold (and with it the patch threshold) is the highest one that the target of defects allows. The
    fail threshold keeps its rate, but is never below.

    Args:
        settings: the configuration.
        name: of the category.
        target: its false-reject rate and its patch rule count; the rule `fail` becomes `review`.
        defect_target: the share of defects that may pass, or costs.
        folder: of images of defects; subfolders are searched too.
        device: the device that will serve.

    Raises:
        SetupError: as `calibrate`, or there are too few defects, or an image of them cannot be inspected.
    """
    before, held_out = _read(settings, name)
    target = replace(target, trial=before.thresholds.trial is True)
    good = held_out.group_scores(before.score), held_out.group_scores("max")
    factor = calibration.hot_patch_factor(*good) if target.with_patches(before.score) else None
    inspector = serving.load(settings, [name], device, streams=1)[name]
    defects = _combine(*_score_images(inspector, folder), factor)
    flagging = _flagging_threshold(_combine(*good, factor), defects, defect_target)
    thresholds, calibrated = calibration.calibrate_flagging(
        held_out, defects, before.score, target, flagging, before.calibration.method
    )
    after = before.model_copy(update={"thresholds": thresholds, "calibration": calibrated})
    store.replace_manifest(settings.paths.memory_banks / name, after)
    return before, after


def _read(settings: config.Config, name: str) -> tuple[BankManifest, HeldOut]:
    folder = settings.paths.memory_banks / name
    manifest = store.load(folder).manifest
    if manifest.held_out_sha256 is None:
        raise SetupError(
            f"memory bank of {name}: an earlier build made it, and it keeps no held-out images; "
            f"fit it again with: patchline fit --category {name} FOLDER"
        )
    return manifest, HeldOut.read(folder, manifest.held_out_sha256)


def _score_images(inspector: Inspector, folder: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The decisive score and the hottest patch of each image of a folder, float32 [images]."""
    found: list[Scores] = []
    with terminal.progress() as progress:
        for path in progress.track(image_files.find([folder]), description="defects"):
            try:
                image = inspector.inspect(path.read_bytes(), image_files.content_type(path), untimed)
            except Unusable as error:
                raise SetupError(f"{path}: {error.detail}; repair it or remove it from the folder") from error
            found.append(image.scores)
    scores = [score.decisive_score(each, inspector.category.score) for each in found]
    return np.array(scores, np.float32), np.array([each.max for each in found], np.float32)


def _combine(scores: NDArray[np.float32], hottest: NDArray[np.float32], factor: float | None) -> NDArray[np.float32]:
    return scores if factor is None else calibration.combine(scores, hottest, factor)


def _flagging_threshold(good: NDArray[np.float32], defects: NDArray[np.float32], target: DefectTarget) -> float:
    if isinstance(target, Costs):
        return cheapest_threshold(good, defects, target)
    return threshold_for_misses(defects, target)


def threshold_for_misses(defects: NDArray[np.float32], max_missed: float) -> float:
    """The highest threshold that a new defect stays below with a probability of at most `max_missed`.

    It is the floor((m + 1) max_missed)-th smallest of m scores, the conformal quantile from below.

    Raises:
        SetupError: there are too few defects for the share.
    """
    rank = math.floor((defects.size + 1) * max_missed + 1e-9)
    if rank < 1:
        raise SetupError(
            f"{defects.size} defects are too few to miss at most {max_missed:.1%} of them: it takes "
            f"{math.ceil(1 / max_missed - 1e-9) - 1}; add images of defects, or name a --max-missed of "
            f"{math.ceil(1000 / (defects.size + 1)) / 1000} or more"
        )
    return float(np.sort(defects)[rank - 1])


def cheapest_threshold(good: NDArray[np.float32], defects: NDArray[np.float32], costs: Costs) -> float:
    """The threshold with the lowest expected cost of a part; of equal ones the lowest, which misses the fewest.

    Args:
        good: float32 [images], held-out scores.
        defects: float32 [images], scores.
        costs: of mistakes.
    """
    candidates = np.unique(np.concatenate([good, defects]))
    missed = (np.searchsorted(np.sort(defects), candidates) + 1) / (defects.size + 1)
    flagged = (good.size - np.searchsorted(np.sort(good), candidates) + 1) / (good.size + 1)
    cost = costs.defect_share * costs.missed * missed + (1 - costs.defect_share) * costs.rejected * flagged
    return float(candidates[np.argmin(cost)])
