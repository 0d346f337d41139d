"""Puts a watched folder together: its events, reports and memory. A bookmark of an earlier version is migrated."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import structlog

from patchline import config
from patchline.protocol.errors import SetupError
from patchline.publisher import bookmark, folder_listing
from patchline.publisher.category_pattern import CategoryPattern
from patchline.publisher.folder_events import FolderEvents
from patchline.publisher.folder_metrics import FolderMetrics
from patchline.publisher.folder_reports import FolderReports
from patchline.publisher.folder_watch import FolderWatch
from patchline.publisher.linked_folder import LinkedFolder
from patchline.publisher.taken_images import TakenImages
from patchline.publisher.watched_folder import Signature

_log = structlog.get_logger(__name__)


def open_watch(
    folder: Path,
    line: str,
    settings: config.Config,
    deadline_ms: int,
    categories: CategoryPattern | None,
    metrics: FolderMetrics,
    stop: threading.Event,
    from_start: bool = False,
) -> FolderWatch | LinkedFolder:
    """Return the watch of a folder. Images that are in it at the first start count as taken, unless `from_start`.

    Args:
        folder: the folder, with its subfolders. If it is given by a symbolic link, the watch follows the link.
        line: the line of the camera.
        settings: the configuration.
        deadline_ms: time allowed for a verdict, from the capture.
        categories: tells the category of each image; None leaves it to the publisher.
        metrics: of the folder.
        stop: ends the watch when set.
        from_start: images that are in the folder at the first start are new, too.

    Raises:
        SetupError: the folder cannot be read, its memory cannot be used, or another publisher of the line watches it.
    """
    if not folder.is_dir():
        raise SetupError(f"{folder}: --watch needs an existing folder")
    spool = settings.paths.spool

    def open_one(root: Path, leave_out: bool) -> FolderWatch:
        in_use = f"{folder}: another publisher of line {line} watches this folder; end one of the two"
        return FolderWatch(
            root=root,
            limits=settings.publisher,
            deadline_ms=deadline_ms,
            categories=categories,
            events=FolderEvents(root, stop),
            memory=_open_memory(root, line, spool, in_use, leave_out and not from_start),
            reports=FolderReports(root, metrics),
            stop=stop,
        )

    if folder.resolve() == folder.absolute():
        return open_one(folder, True)
    return LinkedFolder(folder, spool / f"{line}.{bookmark.link_id(folder)}.link", open_one, stop)


def _open_memory(root: Path, line: str, spool: Path, in_use: str, leave_out: bool) -> TakenImages:
    """Open the memory of a folder. If it is new and `leave_out` is true, images that are there count as taken."""
    memory = TakenImages(spool / f"{line}.{bookmark.folder_id(root)}.taken", in_use)
    if memory.is_new:
        bookmarks = bookmark.find(spool, line, root)
        memory.start(_taken_before(root, bookmarks) if leave_out else {})
        for path in bookmarks:
            path.unlink(missing_ok=True)
    return memory


def _taken_before(folder: Path, bookmarks: list[Path]) -> dict[str, Signature]:
    """Return the images that count as taken at the first start of this version on this folder."""
    now_ns = time.time_ns()
    try:
        images = folder_listing.list_folder(folder, "", on_folder=lambda _: None).images
    except OSError as error:
        raise SetupError(f"{folder}: cannot be read ({error.strerror}); --watch needs a folder that it can") from error
    if bookmarks:
        taken = bookmark.taken_images(images, bookmarks[0].stat(), now_ns)
        _log.info("bookmark migrated", bookmark=str(bookmarks[0]), taken=len(taken), new=len(images) - len(taken))
        return taken
    taken = {path: signature for path, signature in images.items() if signature.ctime_ns <= now_ns}
    _log.info("first watch of this folder: images that are in it already are left out", images=len(taken))
    return taken
