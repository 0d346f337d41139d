"""The held-out images of a memory bank: good images, scored against patches of other images only."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pydantic
from numpy.typing import NDArray

from patchline.inspection import score
from patchline.protocol import messages
from patchline.protocol.errors import SetupError

FILE = "held_out.json"
LARGEST = 16  # distances kept of each image: more than a score needs


class HeldOutImage(messages.Frozen):
    """One image: its path below the fitted folder, its group, and its largest patch distances in descending order."""

    image: str
    group: int
    largest: tuple[float, ...]


class HeldOutFile(messages.Frozen):
    """`held_out.json`, which the manifest names by its digest."""

    format: Literal["patchline.held_out.v1"] = "patchline.held_out.v1"
    images: tuple[HeldOutImage, ...]


@dataclass(frozen=True)
class HeldOut:
    """The distances of held-out good images.

    Attributes:
        names: of the images, relative to the fitted folder.
        groups: int64 [images], the number of the group of each image, from 0 without gaps.
        largest: float32 [images, 16], the largest squared distances of the patches of each image to a memory bank
            without any patch of its group, in descending order. Fewer if images have fewer patches.
    """

    names: tuple[str, ...]
    groups: NDArray[np.int64]
    largest: NDArray[np.float32]

    def image_scores(self, kind: Literal["topk10", "max"]) -> NDArray[np.float32]:
        """The score of each image, float32 [images]."""
        scores = (score.decisive_score(score.image_scores(distances), kind) for distances in self.largest)
        return np.fromiter(scores, np.float32, len(self.names))

    def group_scores(self, kind: Literal["topk10", "max"]) -> NDArray[np.float32]:
        """The highest score of each group, float32 [groups]. Groups are independent of each other, images are not."""
        highest = np.full(int(self.groups.max()) + 1, -np.inf, np.float32)
        np.maximum.at(highest, self.groups, self.image_scores(kind))
        return highest

    def to_bytes(self) -> bytes:
        """The content of `held_out.json`."""
        names = (name.encode("utf-8", "backslashreplace").decode() for name in self.names)
        rows = zip(names, self.groups.tolist(), self.largest.tolist(), strict=True)
        images = tuple(HeldOutImage(image=name, group=group, largest=tuple(values)) for name, group, values in rows)
        return HeldOutFile(images=images).model_dump_json().encode() + b"\n"

    @classmethod
    def read(cls, folder: Path, sha256: str) -> HeldOut:
        """Read the held-out images of a bank.

        Args:
            folder: of the bank.
            sha256: the digest in its manifest.

        Raises:
            SetupError: the file is missing or damaged.
        """
        path = folder / FILE
        try:
            content = path.read_bytes()
        except OSError as error:
            raise SetupError(f"{path}: cannot be read ({error.strerror}); fit the category again") from error
        if digest(content) != sha256:
            raise SetupError(f"{path}: is not the file that the manifest describes; fit the category again")
        try:
            images = HeldOutFile.model_validate_json(content).images
        except pydantic.ValidationError as error:
            raise SetupError(f"{path}: {messages.describe(error)}; fit the category again") from error
        return cls(
            tuple(image.image for image in images),
            np.array([image.group for image in images], np.int64),
            np.array([image.largest for image in images], np.float32),
        )


def largest_distances(distances: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest distances of one image, float32 [at most 16], in descending order."""
    return np.sort(distances)[::-1][:LARGEST]


def digest(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
