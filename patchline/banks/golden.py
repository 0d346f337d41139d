"""Golden images: a few images of a memory bank with their scores at fit time, to compare with the scores here."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pydantic
from numpy.typing import NDArray
from pydantic import Field

from patchline.inspection import score
from patchline.inspection.inspector import Inspector
from patchline.protocol import image_files, messages
from patchline.protocol.errors import JobError, MismatchError, SetupError
from patchline.protocol.messages import Scores

FILE = "golden.json"


class GoldenImage(messages.Frozen):
    """One golden image: its file in the folder of the bank, the digest of its features, its scores at fit time."""

    file: messages.FileName
    content_type: str
    features_sha256: str
    scores: Scores


class GoldenImages(messages.Frozen):
    """`golden.json`: the golden images, and the backbone and device that scored them."""

    format: Literal["patchline.golden.v1"] = "patchline.golden.v1"
    backbone: str
    precision: str
    device: str
    images: Annotated[tuple[GoldenImage, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Comparison:
    """How the scores of golden images differ between fit time and here.

    Attributes:
        fitted_with: backbone, precision and device at fit time.
        served_with: backbone and precision here.
        largest_difference: of a score, in fail thresholds.
        same_features: the number of images with identical features.
        images: the number of golden images.
    """

    fitted_with: str
    served_with: str
    largest_difference: float
    same_features: int
    images: int

    def __str__(self) -> str:
        return (
            f"golden images, {self.fitted_with} at fit time against {self.served_with} here: largest difference of a "
            f"score {self.largest_difference:.2e} of the fail threshold, {self.same_features} of {self.images} with "
            "the same features"
        )


def choose(scores: NDArray[np.float32], paths: Sequence[Path]) -> dict[str, tuple[bytes, str]]:
    """Choose the images with the lowest, the median and the highest score.

    Args:
        scores: float32 [images].
        paths: of the images.

    Returns:
        Encoded image and content type by file name.

    Raises:
        SetupError: an image cannot be read.
    """
    order = np.argsort(scores, kind="stable")
    chosen = {"lowest": order[0], "middle": order[len(order) // 2], "highest": order[-1]}
    files = {f"golden-{word}{paths[row].suffix.lower()}": paths[row] for word, row in chosen.items()}
    return {name: (image_files.read(path), image_files.content_type(path)) for name, path in files.items()}


def record(
    inspector: Inspector, images: dict[str, tuple[bytes, str]], device: str
) -> tuple[GoldenImages, dict[str, bytes]]:
    """Score golden images at fit time.

    Args:
        inspector: with the bank and the backbone of the fit.
        images: encoded image and content type by file name.
        device: the device of the inspector.

    Returns:
        The scored images, and the files to save with the bank, by name.
    """
    scored = []
    for name, (image, content_type) in images.items():
        scores, digest = _score(inspector, image, content_type)
        scored.append(GoldenImage(file=name, content_type=content_type, features_sha256=digest, scores=scores))
    model = inspector.backbone
    golden = GoldenImages(backbone=model.manifest.name, precision=model.precision, device=device, images=tuple(scored))
    files = {name: image for name, (image, _) in images.items()}
    return golden, files | {FILE: golden.model_dump_json(indent=2).encode() + b"\n"}


def read(folder: Path) -> tuple[GoldenImages, list[bytes]]:
    """Read the golden images of a bank, and their encoded bytes.

    Raises:
        SetupError: a file is missing or damaged.
    """
    try:
        golden = GoldenImages.model_validate_json((folder / FILE).read_bytes())
        return golden, [(folder / Path(image.file).name).read_bytes() for image in golden.images]
    except pydantic.ValidationError as error:
        raise SetupError(f"{folder / FILE}: {messages.describe(error)}; fit the category again") from error
    except OSError as error:
        raise SetupError(f"{error.filename}: cannot be read ({error.strerror}); fit the category again") from error


def compare(inspector: Inspector, recorded: tuple[GoldenImages, list[bytes]]) -> Comparison:
    """Score the golden images here, and compare with their scores at fit time.

    Raises:
        SetupError: an image cannot be inspected.
    """
    golden, images = recorded
    largest_difference, same_features = 0.0, 0
    for reference, image in zip(golden.images, images, strict=True):
        try:
            scores, digest = _score(inspector, image, reference.content_type)
        except JobError as error:
            bank = f"memory bank of {inspector.bank.manifest.category}"
            reason = f"golden image {reference.file} cannot be inspected: {error.detail}"
            raise SetupError(f"{bank}: {reason}; if its file is damaged, fit the category again") from error
        difference = max(abs(scores.max - reference.scores.max), abs(scores.topk10 - reference.scores.topk10))
        largest_difference = max(largest_difference, difference / inspector.thresholds.fail)
        same_features += digest == reference.features_sha256
    model = inspector.backbone
    return Comparison(
        fitted_with=f"{golden.backbone} in {golden.precision} on {golden.device}",
        served_with=f"{model.manifest.name} in {model.precision}",
        largest_difference=largest_difference,
        same_features=same_features,
        images=len(images),
    )


def require_match(inspector: Inspector, recorded: tuple[GoldenImages, list[bytes]], tolerance: float) -> Comparison:
    """Check that the golden images have the same scores here as at fit time.

    Args:
        inspector: with the bank and the backbone that will serve.
        recorded: the golden images of the bank, and their encoded bytes.
        tolerance: the largest accepted difference of a score, in fail thresholds.

    Raises:
        MismatchError: a score differs by more than the tolerance.
        SetupError: an image cannot be inspected.
    """
    comparison = compare(inspector, recorded)
    if not comparison.largest_difference <= tolerance:  # NaN is refused too
        name = inspector.bank.manifest.category
        raise MismatchError(
            f"memory bank of {name}: {comparison}, tolerated {tolerance:g}; fit it again with the backbone that "
            "serves, on the device that serves, or set golden_tolerance of the category"
        )
    return comparison


def _score(inspector: Inspector, image: bytes, content_type: str) -> tuple[Scores, str]:
    """The scores of an image, and the SHA-256 of its features."""
    patches = inspector.features(image, content_type)
    return score.image_scores(inspector.bank.distances(patches).all()), hashlib.sha256(patches.tobytes()).hexdigest()
