"""Image files on disk and their content types."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
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
    ".pgm": "image/x-portable-graymap",
    ".ppm": "image/x-portable-pixmap",
}
# Folders of file systems, network storage, trash and thumbnails, in lower case; hidden names are left out anyway.
_SYSTEM_NAMES = {
    "lost+found",
    "$recycle.bin",
    "recycler",
    "system volume information",
    "@eadir",
    "@recycle",
    "@recently-snapshot",
    "@tmp",
    "#recycle",
    "#snapshot",
    "#temp",
    "thumbs",
    "thumbnails",
    "__macosx",
}
_SYSTEM_FILES = {"thumbs.db", "desktop.ini"}
_PARTIAL_PREFIXES = ("~syncthing~", "~$")
_PARTIAL_SUFFIXES = (".part", ".partial", ".filepart", ".crdownload", ".tmp", ".swp")
_FOREIGN = (  # position, bytes and name of formats that cameras and phones write, too
    (0, b"GIF8", "a GIF"),
    (0, b"\x00\x00\x00\x0cjP  ", "a JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (4, b"ftypavif", "an AVIF"),
    (4, b"ftyp", "a HEIC photo or a video"),
    (0, b"P1", "a PBM"),
    (0, b"P2", "a PGM in text"),
    (0, b"P3", "a PPM in text"),
    (0, b"P4", "a PBM"),
    (0, b"P7", "a PAM"),
    (0, b"RIFF", "an AVI or another RIFF file"),
)
_UNKNOWN = "application/octet-stream"
_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"BM": "image/bmp",
    b"II*\x00": "image/tiff",
    b"MM\x00*": "image/tiff",
    b"II+\x00": "image/tiff",  # BigTIFF
    b"MM\x00+": "image/tiff",
    b"P5": "image/x-portable-graymap",
    b"P6": "image/x-portable-pixmap",
}


def find(paths: Iterable[Path]) -> list[Path]:
    """Return the image files of a list of files and folders, without duplicates. Folders are searched recursively.

    Hidden and system folders below the given ones are left out. A file in `paths` is always returned, even if its
    suffix is unknown, so that its error is reported.

    Raises:
        SetupError: a path does not exist, or a folder contains no image.
    """
    images: dict[Path, None] = {}  # a dict keeps the order
    for path in paths:
        if not path.exists():
            raise SetupError(f"no such file or folder: {path}")
        files = [path] if path.is_file() else sorted(_walk(path))
        if not files:
            raise SetupError(f"{path}: no image found (looked for {', '.join(CONTENT_TYPES)})")
        images.update(dict.fromkeys(files))
    return list(images)


def left_out(folder: Path) -> list[Path]:
    """Return the image files below a folder that `find` leaves out: hidden, partial, and in system folders."""
    files = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names if has_image_suffix(name))
    return sorted(path for path in files if any(map(is_left_out, path.relative_to(folder).parts)))


def not_read(folder: Path) -> list[Path]:
    """Return the visible files below a folder that `find` leaves out because of their suffix, except system files."""
    files = (path for path in _visible_files(folder) if not is_system_file(path.name))
    return sorted(path for path in files if not has_image_suffix(path.name))


def read(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        SetupError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise SetupError(f"{path}: cannot be read ({error.strerror})") from error


def has_image_suffix(name: str) -> bool:
    """Return True if the suffix of a file's name is that of an image. The content is checked when it is decoded."""
    return name.lower().endswith(tuple(CONTENT_TYPES))


def is_left_out(name: str) -> bool:
    """Return True for the name of a hidden, system or partial file or folder: it holds no image of a part."""
    lower = name.lower()
    return name.startswith((".", *_PARTIAL_PREFIXES)) or lower.endswith(_PARTIAL_SUFFIXES) or lower in _SYSTEM_NAMES


def is_system_file(name: str) -> bool:
    """Return True for the name of a file that a desktop writes into folders."""
    return name.lower() in _SYSTEM_FILES


def detect_content_type(image: bytes) -> str:
    """Return the content type that belongs to the first bytes of an encoded image."""
    for start, content_type in _SIGNATURES.items():
        if image.startswith(start):
            return content_type
    is_webp = image[:4] == b"RIFF" and image[8:12] == b"WEBP"
    return "image/webp" if is_webp else _UNKNOWN


def describe_foreign(image: bytes) -> str:
    """Say what the first bytes of a file are, if they are none of the content types above."""
    name = next((name for position, start, name in _FOREIGN if image[position:].startswith(start)), None)
    return "the bytes are no image that is read here" if name is None else f"the bytes are {name}"


def content_type(path: Path) -> str:
    """Return the content type that belongs to the suffix."""
    return CONTENT_TYPES.get(path.suffix.lower(), _UNKNOWN)


def content_type_of(path: Path, image: bytes) -> str:
    """Return the content type of an encoded image; if its first bytes do not say it, that of its file's suffix."""
    detected = detect_content_type(image)
    return content_type(path) if detected == _UNKNOWN else detected


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the images of a folder and its subfolders."""
    return (path for path in _visible_files(folder) if has_image_suffix(path.name))


def _visible_files(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and its subfolders, except hidden, system and partial ones."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_left_out(name)]
        for name in names:
            path = Path(parent, name)
            if not is_left_out(name) and path.is_file():
                yield path
