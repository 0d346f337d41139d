"""Refuses folders that hold more than good images: data sets with their tests, defects and masks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchline.protocol.errors import SetupError

_TESTS = {"test", "tests", "testing"}
_DEFECTS = {
    *("defect", "defects", "defective", "anomaly", "anomalies", "anomalous", "abnormal", "bad", "faulty", "fault"),
    *("faults", "fail", "fails", "failed", "reject", "rejects", "rejected", "ng", "nok", "ko", "nio", "broken"),
    *("damaged", "scratch", "scratches", "scratched", "crack", "cracks", "cracked", "dent", "dents", "scrap"),
}
_MASKS = {"mask", "masks", "gt", "groundtruth", "annotation", "annotations", "segmentation"}
_NEGATIONS = {"no", "non", "not", "without", "free"}
_GOOD = {"good", "ok", "normal", "io", "pass", "passed"}
_EXTREME = 8  # grey levels from black or white that a mask's pixels may be away, because of JPEG
_MASK_SHARE = 0.995


def require_good_only(folder: Path, paths: Sequence[Path]) -> None:
    """Check that no subfolder or file name says that its images are tests, defects or masks.

    Only names below `folder` count, so a subfolder with such a name can be given itself.

    Raises:
        SetupError: one does; the text names the folder to give instead, if there is one.
    """
    for path in paths:
        relative = path.relative_to(folder) if path != folder else Path(path.name)
        for kind, name in _suspicious_names(relative):
            share = sum(name in other.relative_to(folder).parts for other in paths) if path != folder else 1
            raise SetupError(
                f"{folder}: {share} of its {len(paths)} images are {kind} by their name, such as {relative}; "
                f"{_advice(folder, paths)}. If {name} does hold good images, rename it or give it as the folder"
            )


def is_mask(rgb: NDArray[np.uint8]) -> bool:
    """Return True for an image that is black and white with nothing between."""
    some = rgb[:: 1 + rgb.shape[0] // 512, :: 1 + rgb.shape[1] // 512]
    return bool(np.mean((some <= _EXTREME) | (some >= 255 - _EXTREME)) >= _MASK_SHARE)


def require_no_masks(paths: Sequence[Path], masks: Iterable[bool]) -> None:
    """Check that black and white images are not mixed with others. A camera may give black and white images only.

    Raises:
        SetupError: they are.
    """
    found = [path for path, mask in zip(paths, masks, strict=True) if mask]
    if 0 < len(found) <= len(paths) / 2:
        raise SetupError(
            f"{len(found)} of {len(paths)} good images are black and white with nothing between, such as {found[0]}: "
            "masks, or pictures without light; remove them from the folder"
        )


def _suspicious_names(relative: Path) -> list[tuple[str, str]]:
    """The kinds and names in a path that tell of something else than good parts."""
    kinds = [(_kind(name), name) for name in relative.parts[:-1]]
    if re.search(r"[_\-. ](mask|gt|annotation)$", relative.stem.lower()):
        kinds.append(("masks", relative.name))
    return [(kind, name) for kind, name in kinds if kind is not None]


def _kind(name: str) -> str | None:
    """What the name of a folder says about its images; None if nothing."""
    words = re.findall(r"[^\W\d_]+", name.lower())
    negated = bool(_NEGATIONS.intersection(words))
    if _DEFECTS.intersection([*words, "".join(words)]):
        return None if negated else "defects"
    if _GOOD.intersection(words):
        return "defects" if negated else None
    if "".join(words) in _TESTS:
        return "test images"
    return "masks" if _MASKS.intersection([*words, "".join(words)]) else None


def _advice(folder: Path, paths: Sequence[Path]) -> str:
    parents = {parent for path in paths for parent in path.relative_to(folder).parents} if paths != [folder] else set()
    good = sorted(
        parent for parent in parents if parent.name.lower() in _GOOD and not any(_kind(name) for name in parent.parts)
    )
    best = [parent for parent in good if "train" in map(str.lower, parent.parts)] or good
    if not best:
        return "give a folder with images of good parts only"
    return f"give the folder of good parts only, {' or '.join(str(folder / parent) for parent in best[:3])}"
