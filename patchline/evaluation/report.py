"""The figures of an evaluation, and what they mean for a plant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchline.banks import report as promises
from patchline.evaluation import intervals, metrics, pixel_metrics
from patchline.evaluation.datasets import GOOD, Dataset
from patchline.evaluation.intervals import Figure
from patchline.evaluation.pixel_counts import PixelCounts, PixelStatistics
from patchline.evaluation.ran_on import RanOn
from patchline.evaluation.seeds import COLUMNS, SeedsReport
from patchline.inspection.inspector import Inspector
from patchline.inspection.memory_bank import Calibration
from patchline.protocol.messages import Decision, Frozen, Scores, Thresholds
from patchline.runtime import terminal

AUPRO_LIMIT = 0.3  # of the false-positive rate, as in MVTec AD
SPRO_LIMIT = 0.05  # as in MVTec LOCO AD; MVTec AD 2 has AUPRO with this limit
_PIXEL_SAMPLES = 200  # resamples of images for the intervals of the pixel metrics


@dataclass(frozen=True)
class JudgedImage:
    """A test image, its label and its judgement."""

    path: Path
    kind: str
    decision: Decision
    score: float
    scores: Scores

    @property
    def is_good(self) -> bool:
        """Whether the label says good."""
        return self.kind == GOOD


class ImageReport(Frozen):
    """Decisions on whole images.

    `false_rejects` (good images that fail), `false_flags` (that fail or need a review) and `missed` (defects that pass)
    are counted at the thresholds of the bank, `missed_at_asked_rate` at the threshold that rejects the asked share of
    these good images.
    """

    auroc: Figure
    average_precision: Figure
    f1_max: Figure
    false_rejects: Figure
    false_flags: Figure
    missed: Figure
    missed_at_asked_rate: Figure
    false_rejects_at_full_recall: Figure


class PixelReport(Frozen):
    """Localisation at the size of the input of the backbone. `au_spro` needs saturation thresholds."""

    auroc: Figure
    aupro: Figure
    aupro_05: Figure
    seg_f1: Figure
    seg_f1_max: Figure
    au_spro: Figure | None = None


class KindReport(Frozen):
    """The figures of one kind of defect, against all good images."""

    images: int
    auroc: Figure
    missed: Figure
    pixel: PixelReport | None = None


class Report(Frozen):
    """`<category>.json`.

    `instance_auroc` and `instance_auroc_topk10` are the reference's figures. `decisions` counts images by kind and
    decision. `images_in_fit` is the number of test images that the memory bank was fitted with, for which figures are
    too good; None if the images of the fit are not known, or not where `fit` read them. `map_side` is the side of the
    maps that the pixel figures compare, in pixels. `seeds` compares memory banks, if there are several.
    """

    category: str
    memory_bank: str
    ran_on: RanOn
    layout: str
    images: int
    good_images: int
    defects: int
    images_in_fit: int | None = None
    map_side: int
    thresholds: Thresholds
    asked_false_reject_rate: float
    instance_auroc: float
    instance_auroc_topk10: float
    pixel_auroc: float | None
    aupro: float | None
    false_reject_rate: float
    missed_rate: float
    decisions: dict[str, dict[str, int]]
    image: ImageReport
    pixel: PixelReport | None
    kinds: dict[str, KindReport]
    seeds: SeedsReport | None = None
    notes: list[str]
    summary: str


def make(
    inspector: Inspector,
    ran_on: RanOn,
    dataset: Dataset,
    images: list[JudgedImage],
    pixels: PixelStatistics,
    seeds: SeedsReport | None = None,
) -> Report:
    """Compute all figures.

    Args:
        inspector: of the category.
        ran_on: the device and the model of the inspector.
        dataset: the labelled images, and what was not used.
        images: the judgement of each.
        pixels: the counts of good images, and of defects with masks.
        seeds: the figures over several memory banks, if there are several.
    """
    good, defects = ([image for image in images if image.is_good is label] for label in (True, False))
    asked_rate = inspector.bank.manifest.calibration.false_reject_rate
    image_report = _image_report(good, defects, asked_rate)
    promise = _promise(inspector.bank.manifest.calibration, image_report)
    pixel = _pixel_report(pixels, list(pixels.by_kind), dataset)
    kinds = {kind: _kind_report(kind, good, defects, pixels, dataset) for kind in dataset.kinds if kind != GOOD}
    return Report(
        category=inspector.bank.manifest.category,
        memory_bank=inspector.bank.name,
        ran_on=ran_on,
        layout=dataset.layout,
        images=len(images),
        good_images=len(good),
        defects=len(defects),
        images_in_fit=dataset.images_in_fit,
        map_side=inspector.category.imagesize,
        thresholds=inspector.thresholds,
        asked_false_reject_rate=asked_rate,
        instance_auroc=metrics.auroc(_scores(good, "max"), _scores(defects, "max")),
        instance_auroc_topk10=metrics.auroc(_scores(good, "topk10"), _scores(defects, "topk10")),
        pixel_auroc=None if pixel is None else pixel.auroc.value,
        aupro=None if pixel is None else pixel.aupro.value,
        false_reject_rate=image_report.false_rejects.value,
        missed_rate=image_report.missed.value,
        decisions=_count_decisions(images),
        image=image_report,
        pixel=pixel,
        kinds=kinds,
        seeds=seeds,
        notes=dataset.notes,
        summary=promise + _summary(image_report, good, defects, kinds, asked_rate),
    )


def print_report(report: Report) -> None:
    """Print a report as tables, and what it means."""
    rows = [(label, figure.value, *_interval(figure)) for label, figure in figures(report)]
    title = f"{report.category}: {report.images} images in the layout of {report.layout}"
    terminal.table(title, ("measure", "value", "from", "to"), rows)
    counts = [(kind, *(counts[decision] for decision in Decision)) for kind, counts in report.decisions.items()]
    terminal.table("decisions at the thresholds", ("kind", *Decision), counts)
    if report.seeds is not None:
        terminal.table(seeds_title(report.seeds), COLUMNS, report.seeds.rows())
    print("\n".join([f"{report.memory_bank}, {report.ran_on}", *report.notes, report.summary]))


def of_threshold(score: float, limits: Thresholds) -> str:
    """How far a score is from where a part fails; in a trial, which fails none, from where it is reviewed."""
    return f"{score / limits.unit:.2f} of the threshold{' of review' if limits.trial else ''}"


def seeds_title(seeds: SeedsReport) -> str:
    """What the figures over seeds are."""
    return f"{len(seeds.seeds)} memory banks from the same good images, seeds {seeds.seeds[0]} to {seeds.seeds[-1]}"


def figures(report: Report) -> list[tuple[str, Figure]]:
    """The figures with their names, as they are shown."""
    image, pixel, rate = report.image, report.pixel, report.asked_false_reject_rate
    rows = [
        ("AUROC", image.auroc),
        ("average precision", image.average_precision),
        ("F1, best threshold", image.f1_max),
        ("good images rejected", image.false_rejects),
        ("defects missed", image.missed),
        (f"defects missed if {rate:.1%} of these good images are rejected", image.missed_at_asked_rate),
        ("good images rejected if no defect is missed", image.false_rejects_at_full_recall),
    ]
    if pixel is not None:
        rows += [
            ("pixel AUROC", pixel.auroc),
            ("AUPRO up to 0.3", pixel.aupro),
            ("AUPRO up to 0.05", pixel.aupro_05),
            ("SegF1 at the fail threshold", pixel.seg_f1),
            ("SegF1, best threshold", pixel.seg_f1_max),
        ]
    if pixel is not None and pixel.au_spro is not None:
        rows.append(("AU-sPRO up to 0.05", pixel.au_spro))
    return rows


def _interval(figure: Figure) -> tuple[object, object]:
    return ("", "") if figure.low is None or figure.high is None else (figure.low, figure.high)


def _image_report(good: list[JudgedImage], defects: list[JudgedImage], asked_rate: float) -> ImageReport:
    good_scores, defect_scores = _scores(good), _scores(defects)
    return ImageReport(
        auroc=intervals.auroc(good_scores, defect_scores),
        average_precision=intervals.bootstrap(good_scores, defect_scores, metrics.average_precision),
        f1_max=intervals.bootstrap(good_scores, defect_scores, metrics.f1_max),
        false_rejects=_share(good, Decision.FAIL),
        false_flags=_share(good, Decision.FAIL, Decision.REVIEW),
        missed=_share(defects, Decision.PASS),
        missed_at_asked_rate=intervals.bootstrap_share(
            good_scores, defect_scores, lambda points: metrics.missed_at_rate(points, asked_rate), len(defects)
        ),
        false_rejects_at_full_recall=intervals.bootstrap_share(
            good_scores, defect_scores, metrics.false_rejects_at_full_recall, len(good)
        ),
    )


def _kind_report(
    kind: str, good: list[JudgedImage], defects: list[JudgedImage], pixels: PixelStatistics, dataset: Dataset
) -> KindReport:
    of_kind = [image for image in defects if image.kind == kind]
    with_masks = kind in pixels.by_kind
    return KindReport(
        images=len(of_kind),
        auroc=intervals.auroc(_scores(good), _scores(of_kind)),
        missed=_share(of_kind, Decision.PASS),
        pixel=_pixel_report(pixels, [GOOD, kind], dataset) if with_masks else None,
    )


def _pixel_report(pixels: PixelStatistics, kinds: list[str], dataset: Dataset) -> PixelReport | None:
    """The figures of some kinds, good images among them; None if nothing is marked."""
    counts = pixels.total(kinds)
    if not counts.regions or not counts.normal.any():
        return None
    resampled = pixels.resampled(_weights(pixels.kinds, kinds))
    coarse = counts.coarse()

    def figure(metric: Callable[[PixelCounts], NDArray[np.float64]]) -> Figure:
        value = float(metric(counts))
        # The coarse counts tell how far a figure spreads, the fine ones where it is.
        spread = metric(resampled) - metric(coarse)
        return intervals.percentiles(value, np.clip(value + spread[np.isfinite(spread)], 0.0, 1.0))

    return PixelReport(
        auroc=figure(pixel_metrics.auroc),
        aupro=figure(lambda counts: pixel_metrics.aupro(counts, AUPRO_LIMIT)),
        aupro_05=figure(lambda counts: pixel_metrics.aupro(counts, SPRO_LIMIT)),
        seg_f1=figure(pixel_metrics.seg_f1),
        seg_f1_max=figure(pixel_metrics.seg_f1_max),
        au_spro=figure(lambda counts: pixel_metrics.au_spro(counts, SPRO_LIMIT)) if dataset.saturations else None,
    )


def _weights(kind_of_image: list[str], kinds: list[str]) -> NDArray[np.float64]:
    """Resamples of the images of some kinds, good images and defects apart: float64 [samples, images]."""
    rng = np.random.default_rng(0)
    weights = np.zeros((_PIXEL_SAMPLES, len(kind_of_image)))
    good = np.array([kind == GOOD for kind in kind_of_image])
    defect = np.array([kind in kinds and kind != GOOD for kind in kind_of_image])
    for group in (good, defect):
        if group.any():
            weights[:, group] = intervals.resample_weights(rng, int(group.sum()), _PIXEL_SAMPLES)
    return weights


def _promise(calibration: Calibration, image: ImageReport) -> str:
    """What the memory bank promises because of its good images, and whether these test images kept it."""
    flagged, failed = calibration.flagged, calibration.failed
    if flagged is None:
        return ""
    rejected = "" if failed is None else f", {promises.per_thousand(failed)} of them rejected"
    text = (
        f"Because of {calibration.images} good images, the memory bank promises that of 1,000 good parts "
        f"{promises.per_thousand(flagged)} are flagged{rejected}; each bound holds with 95 % confidence. "
    )
    if (image.false_flags.low or 0.0) <= flagged.upper:
        return text
    return text + (
        "More of these test images are flagged: they differ from the images of the fit in product, light or camera, or "
        "several of those showed one part. "
    )


def _summary(
    image: ImageReport, good: list[JudgedImage], defects: list[JudgedImage], kinds: dict[str, KindReport], rate: float
) -> str:
    """What the figures mean for a plant, in one paragraph."""
    rejected = sum(part.decision is Decision.FAIL for part in good)
    missed = sum(part.decision is Decision.PASS for part in defects)
    worst = max(kinds, key=lambda kind: kinds[kind].missed.value)
    detail = f", most often of the kind {worst} ({kinds[worst].missed.value:.0%})" if missed and len(kinds) > 1 else ""
    return (
        f"Of 1,000 good parts about {_per_thousand(image.false_rejects)} will be rejected, because {rejected} of "
        f"{len(good)} good test images were (asked for: at most {rate * 1000:g}); with those that need a review, "
        f"{_per_thousand(image.false_flags)} will be flagged. Of 1,000 defective parts about "
        f"{_per_thousand(image.missed)} would pass, because {missed} of {len(defects)} defects did{detail}. The ranges "
        "have 95 % confidence. They hold for parts and defects like those in these images, each taken independently; a "
        "kind of defect that is not among them is not covered."
    )


def _per_thousand(figure: Figure) -> str:
    value, low, high = (round(1000 * (share or 0.0)) for share in (figure.value, figure.low, figure.high))
    return f"{value} ({low} to {high})"


def _count_decisions(images: list[JudgedImage]) -> dict[str, dict[str, int]]:
    return {
        kind: {
            str(decision): sum(image.kind == kind and image.decision is decision for image in images)
            for decision in Decision
        }
        for kind in dict.fromkeys(image.kind for image in images)
    }


def _scores(images: list[JudgedImage], kind: str | None = None) -> NDArray[np.float64]:
    """The scores that decide, or those of a kind."""
    scores = (image.score if kind is None else getattr(image.scores, kind) for image in images)
    return np.array(list(scores), np.float64)


def _share(images: list[JudgedImage], *decisions: Decision) -> Figure:
    return intervals.share(sum(image.decision in decisions for image in images), len(images))
