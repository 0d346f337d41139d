"""Ids of watched folders in names of files, and bookmarks of earlier versions.

A bookmark is a file whose modification time says until when all images were taken.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import structlog

from patchline.publisher.watched_folder import Signature

_log = structlog.get_logger(__name__)
_BEHIND_NS = 1_000_000_000  # a bookmark was this much behind the clock


def folder_id(folder: Path) -> str:
    """Return an id of a watched folder, for the names of its files in the spool folder."""
    return _id(folder.resolve())


def link_id(link: Path) -> str:
    """Return an id of the path by which a folder was given."""
    return _id(link.absolute())


def find(spool_folder: Path, line: str, folder: Path) -> list[Path]:
    """Return the bookmarks of a folder, of any category, the one that was used last first."""
    bookmarks = spool_folder.glob(f"{line}.*.{folder_id(folder)}.bookmark")
    return sorted(bookmarks, key=lambda path: path.stat().st_ctime_ns, reverse=True)


def taken_images(listing: Mapping[str, Signature], bookmark: os.stat_result, now_ns: int) -> dict[str, Signature]:
    """Return the images that were taken according to a bookmark.

    A bookmark may be dated in the future, by a host that started with a wrong clock. Its change time then says when it
    was last used. If that is in the future too, only images of that time count as taken: it is better to send an image
    again, as the same job, than to hide one.
    """
    until_ns, since_ns = bookmark.st_mtime_ns, 0
    if until_ns > now_ns:
        until_ns = bookmark.st_ctime_ns - _BEHIND_NS
        since_ns = now_ns if until_ns > now_ns else 0
        _log.warning(
            "bookmark is dated in the future, so every image since its last use is sent; compare the clocks",
            ahead_s=round((bookmark.st_mtime_ns - now_ns) / 1e9),
        )
    return {path: signature for path, signature in listing.items() if since_ns <= signature.ctime_ns <= until_ns}


def _id(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
