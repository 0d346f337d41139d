"""Lists the images of a folder with their signatures."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from patchline.protocol import image_files
from patchline.publisher.watched_folder import Signature

_INODE_MASK = 2**63 - 1  # SQLite's integers are signed


@dataclass(frozen=True)
class Listing:
    """The content of a folder.

    Attributes:
        images: the images by their relative paths.
        unreadable: what could not be read, with the reason.
        links: the relative paths of symbolic links to folders. They are not followed: they may lead in a circle.
        skipped: the relative paths of visible files with other suffixes, by suffix in lower case.
    """

    images: dict[str, Signature] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    links: list[str] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=dict)


def list_folder(root: Path, start: str, on_folder: Callable[[str], None]) -> Listing:
    """List the images in `root` / `start` and its subfolders, without hidden and system folders.

    Args:
        root: the watched folder.
        start: the relative path of the folder to begin with; empty for `root`.
        on_folder: called with each folder before it is read, so that a watch on it misses nothing.

    Raises:
        OSError: `root` / `start` itself cannot be read.
    """
    listing, folders = Listing(), [start]
    while folders:
        folder = folders.pop()
        on_folder(folder)
        try:
            folders += _list_one(root, folder, listing)
        except OSError as error:
            if folder == start:
                raise
            listing.unreadable[folder] = str(error.strerror)
    return listing


def signature_of(status: os.stat_result) -> Signature:
    """Return the signature of a file."""
    return Signature(status.st_ino & _INODE_MASK, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _list_one(root: Path, folder: str, listing: Listing) -> list[str]:
    """Add the images of one folder. Return its subfolders."""
    subfolders = []
    with os.scandir(root / folder) as entries:
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if image_files.is_left_out(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                subfolders.append(path)
            elif entry.is_symlink() and entry.is_dir():
                listing.links.append(path)
            elif image_files.has_image_suffix(entry.name):
                _add(listing, path, entry)
            elif entry.is_file() and not image_files.is_system_file(entry.name):
                listing.skipped.setdefault(Path(entry.name).suffix.lower(), []).append(path)
    return subfolders


def _add(listing: Listing, path: str, entry: os.DirEntry[str]) -> None:
    try:
        status = entry.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        listing.unreadable[path] = str(error.strerror)
        return
    if stat.S_ISREG(status.st_mode):
        listing.images[path] = signature_of(status)
