"""Image files on disk and their content types."""

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
    """Return the image files of a list of files and folders, without duplicates. Folders are searched recursively.

    A file in `paths` is always returned, even if its suffix is unknown, so that its error is reported.

    Raises:
        SetupError: a path does not exist, or a folder contains no image.
    """
    images: dict[Path, None] = {}  # a dict keeps the order
    for path in paths:
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if is_image(file))
        if not files:
            raise SetupError(f"{path}: no image found (looked for {', '.join(CONTENT_TYPES)})")
        images.update(dict.fromkeys(files))
    return list(images)


def is_image(path: Path) -> bool:
    """Return True if the suffix is that of an image. The content is checked when it is decoded."""
    return path.suffix.lower() in CONTENT_TYPES and not path.name.startswith(".") and path.is_file()


def content_type(path: Path) -> str:
    """Return the content type that belongs to the suffix."""
    return CONTENT_TYPES.get(path.suffix.lower(), "application/octet-stream")
