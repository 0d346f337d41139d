"""A folder of good images -> coreset -> memory bank -> thresholds."""

from __future__ import annotations

import datetime
import functools
import math
import platform
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inspection import backbone, calibrate, config, coreset, decode, image_files, memory_bank, preprocess, score
from inspection.errors import SetupError, Unusable
from inspection.message import Thresholds
from tools import terminal

Features = NDArray[np.float32]


def fit(settings: config.Config, name: str, folder: Path, seed: int) -> memory_bank.Manifest:
    """Make the memory bank of a category from good images, and keep it where workers look for it.

    Memory is bounded by `max_patches` of the category, not by the number of images: they are read twice, once for
    candidates of the coreset and once to be scored.

    Args:
        settings: the configuration.
        name: of the category.
        folder: of good images, searched with its subfolders.
        seed: the same seed, images and machine give the same bank.

    Raises:
        SetupError: too few images, an image that cannot be decoded, or a model that cannot be used.
    """
    category = settings.category(name)
    paths = image_files.find([folder])
    calibrate.require_enough(len(paths), category.false_reject_rate)
    model = backbone.load(
        settings.paths.models, category.backbone, category.imagesize, backbone.Device.parse("cpu"), streams=1
    )
    if model.manifest.layer != category.layer:
        raise SetupError(
            f"category {name}: layer is {category.layer}, but {category.backbone} gives {model.manifest.layer}"
        )
    with terminal.progress() as bars:
        read = functools.partial(_extracted, paths, settings, category, model, bars)
        candidates, image_of = _candidates(read("features"), category.max_patches // len(paths), seed)
        rows = _coreset(candidates, category, seed, bars)
        bank, image_of_row = candidates[rows], image_of[rows]
        held_out = _leave_one_out(read("calibration"), bank, image_of_row, category)
    return _keep(settings, name, model.manifest, bank, held_out, seed, len(candidates))


def _keep(
    settings: config.Config,
    name: str,
    model: backbone.Manifest,
    bank: Features,
    held_out: Features,
    seed: int,
    candidate_patches: int,
) -> memory_bank.Manifest:
    category = settings.category(name)
    index_bytes = memory_bank.encode(memory_bank.build(bank))
    manifest = memory_bank.Manifest(
        category=name,
        backbone=category.backbone,
        backbone_sha256=model.sha256,
        layer=category.layer,
        precision=model.precision,
        resize=category.resize,
        imagesize=category.imagesize,
        dim=bank.shape[1],
        patches=bank.shape[0],
        coreset_ratio=category.coreset_ratio,
        seed=seed,
        good_images=held_out.size,
        candidate_patches=candidate_patches,
        score=category.score,
        thresholds=_thresholds(held_out, category),
        calibration=_calibration(held_out, category),
        index_sha256=memory_bank.digest(index_bytes),
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions=_versions(),
    )
    memory_bank.save(settings.paths.memory_banks / name, index_bytes, manifest)
    return manifest


def _extracted(
    paths: list[Path],
    settings: config.Config,
    category: config.Category,
    model: backbone.Backbone,
    bars: terminal.Progress,
    title: str,
) -> Iterator[Features]:
    """float32 [patches, dim] of each image, in order."""
    for path in bars.track(paths, description=title):
        try:
            rgb = decode.decode(path.read_bytes(), image_files.content_type(path), settings.images)
        except Unusable as error:
            raise SetupError(f"{path}: {error.detail}; mend it or take it out of the folder") from error
        yield model.extract(preprocess.prepare(rgb, category.resize, category.imagesize)[None])[0]


def _candidates(features: Iterable[Features], share: int, seed: int) -> tuple[Features, NDArray[np.int64]]:
    """Patches for the coreset to choose from, at most `share` of each image, and the number of each one's image."""
    rng = np.random.default_rng(seed)
    kept = [_sample(patches, share, rng) for patches in features]
    image_of = np.repeat(np.arange(len(kept)), [len(patches) for patches in kept])
    return np.concatenate(kept), image_of


def _sample(patches: Features, most: int, rng: np.random.Generator) -> Features:
    if len(patches) <= most:
        return patches
    return patches[np.sort(rng.choice(len(patches), most, replace=False))]


def _coreset(candidates: Features, category: config.Category, seed: int, bars: terminal.Progress) -> NDArray[np.int64]:
    count = max(1, math.floor(len(candidates) * category.coreset_ratio))
    bar = bars.add_task("coreset", total=count)
    points = coreset.project(candidates, seed)
    return np.sort(coreset.select(points, count, seed, lambda chosen: bars.update(bar, completed=chosen)))


def _leave_one_out(
    features: Iterable[Features], bank: Features, image_of_row: NDArray[np.int64], category: config.Category
) -> Features:
    """float32 [images]: the score of each image against the bank without the patches that came from itself."""
    held_out = []
    for number, patches in enumerate(features):
        others = bank[image_of_row != number]
        distances, _ = memory_bank.nearest(memory_bank.build(others), others, patches)
        scores = score.image_scores(distances)
        held_out.append(scores.topk10 if category.score == "topk10" else scores.max)
    return np.array(held_out, np.float32)


def _thresholds(held_out: Features, category: config.Category) -> Thresholds:
    return Thresholds(
        review=calibrate.threshold(held_out, category.review_rate),
        fail=calibrate.threshold(held_out, category.false_reject_rate),
    )


def _calibration(held_out: Features, category: config.Category) -> memory_bank.Calibration:
    return memory_bank.Calibration(
        method="leave-one-image-out",
        images=held_out.size,
        false_reject_rate=category.false_reject_rate,
        review_rate=category.review_rate,
        held_out_median=float(np.median(held_out)),
        held_out_max=float(held_out.max()),
    )


def _versions() -> dict[str, str]:
    packages = ("patchline", "openvino", "faiss-cpu", "opencv-python", "numpy")
    return {"python": platform.python_version()} | {package: metadata.version(package) for package in packages}
