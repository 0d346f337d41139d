"""A few images of a memory bank, and what they scored at fit time: does this machine judge as that one did?"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pydantic

from patchline.inspection import decode, preprocess, score
from patchline.inspection.inspector import Inspector
from patchline.protocol import messages
from patchline.protocol.errors import JobError, SetupError
from patchline.protocol.messages import Scores

FILE = "golden.json"


class Image(messages.Frozen):
    """One golden image: its file beside the bank, the digest of its features and its scores at fit time."""

    file: messages.FileName
    content_type: str
    features_sha256: str
    scores: Scores


class Golden(messages.Frozen):
    """`golden.json`: by whom the images were scored, and how."""

    format: Literal["patchline.golden.v1"] = "patchline.golden.v1"
    backbone: str
    precision: str
    device: str
    images: tuple[Image, ...]


@dataclass(frozen=True)
class Comparison:
    """The largest difference of a score, in fail thresholds, and how many images had the very same features."""

    then: str
    now: str
    largest: float
    same_features: int
    images: int

    def __str__(self) -> str:
        return (
            f"golden images, {self.then} at fit time against {self.now} here: largest difference of a score "
            f"{self.largest:.2e} of the fail threshold, {self.same_features} of {self.images} with the same features"
        )


def record(inspect: Inspector, images: dict[str, tuple[bytes, str]], device: str) -> tuple[Golden, dict[str, bytes]]:
    """Score images for later; returns what is compared then, and the files to keep.

    Args:
        inspect: with the bank and the backbone that were just fitted.
        images: file name -> encoded image and its content type.
        device: where `inspect` runs.
    """
    measured = []
    for name, (image, content_type) in images.items():
        scores, digest = _measure(inspect, image, content_type)
        measured.append(Image(file=name, content_type=content_type, features_sha256=digest, scores=scores))
    model = inspect.backbone
    golden = Golden(backbone=model.manifest.name, precision=model.precision, device=device, images=tuple(measured))
    files = {name: image for name, (image, _) in images.items()}
    return golden, files | {FILE: golden.model_dump_json(indent=2).encode() + b"\n"}


def read(folder: Path) -> tuple[Golden, list[bytes]]:
    """The golden images of a bank. Raises SetupError when they are missing or damaged."""
    try:
        golden = Golden.model_validate_json((folder / FILE).read_bytes())
        return golden, [(folder / Path(image.file).name).read_bytes() for image in golden.images]
    except pydantic.ValidationError as error:
        raise SetupError(f"{folder / FILE}: {messages.describe(error)}; fit the category again") from error
    except OSError as error:
        raise SetupError(f"{error.filename}: cannot be read ({error.strerror}); fit the category again") from error


def compare(inspect: Inspector, recorded: tuple[Golden, list[bytes]]) -> Comparison:
    """Score the golden images here and now. Raises SetupError when one cannot be judged at all."""
    golden, images = recorded
    largest, same = 0.0, 0
    for then, image in zip(golden.images, images, strict=True):
        try:
            scores, digest = _measure(inspect, image, then.content_type)
        except JobError as error:
            raise SetupError(f"golden image {then.file} cannot be judged: {error.detail}") from error
        difference = max(abs(scores.max - then.scores.max), abs(scores.topk10 - then.scores.topk10))
        largest = max(largest, difference / inspect.thresholds.fail)
        same += digest == then.features_sha256
    model = inspect.backbone
    return Comparison(
        then=f"{golden.backbone} in {golden.precision} on {golden.device}",
        now=f"{model.manifest.name} in {model.precision}",
        largest=largest,
        same_features=same,
        images=len(images),
    )


def require_match(inspect: Inspector, recorded: tuple[Golden, list[bytes]], tolerance: float) -> Comparison:
    """Refuse to serve when the golden images score otherwise here.

    Raises:
        SetupError: a score differs by more than `tolerance` fail thresholds; names both backbones and the numbers.
    """
    found = compare(inspect, recorded)
    if not found.largest <= tolerance:  # also when it is not a number
        name = inspect.bank.manifest.category
        raise SetupError(
            f"memory bank of {name}: {found}, tolerated {tolerance:g}; fit it again with the backbone that serves, on "
            "the device that serves, or set golden_tolerance of the category"
        )
    return found


def _measure(inspect: Inspector, image: bytes, content_type: str) -> tuple[Scores, str]:
    rgb = decode.decode(image, content_type, inspect.limits)
    prepared = preprocess.prepare(rgb, inspect.category.resize, inspect.category.imagesize)
    patches = inspect.backbone.extract(prepared[None])[0]
    return score.image_scores(inspect.bank.distances(patches).all()), hashlib.sha256(patches.tobytes()).hexdigest()
