"""Image files on disk: which they are, and what they say they are."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from patchline.protocol.errors import SetupError

CONTENT_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".bmp": "image/bmp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".webp": "image/webp",
}


def find(paths: Iterable[Path]) -> list[Path]:
    """The image files among `paths` and in the folders among them, each folder sorted, each file once.

    A file that is named itself is taken whatever its ending, so that its fault is reported and not passed over.

    Raises:
        SetupError: a path does not exist or has no image in it.
    """
    found: dict[Path, None] = {}
    for path in paths:
        inside = [path] if path.is_file() else sorted(each for each in path.rglob("*") if is_image(each))
        if not inside:
            raise SetupError(f"{path}: there is no image here (looked for {', '.join(CONTENT_TYPES)})")
        found.update(dict.fromkeys(inside))
    return list(found)


def is_image(path: Path) -> bool:
    """By its ending; what the bytes are shows when they are decoded."""
    return path.suffix.lower() in CONTENT_TYPES and not path.name.startswith(".") and path.is_file()


def content_type(path: Path) -> str:
    """By its ending."""
    return CONTENT_TYPES.get(path.suffix.lower(), "application/octet-stream")
