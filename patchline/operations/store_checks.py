"""Whether this user can use the stores of a plant: that of the memory banks, and those of the archive."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from patchline import config
from patchline.archive import opening as archives
from patchline.archive.base import Unavailable
from patchline.archive.database import Access
from patchline.archive.store import StoreUnavailable
from patchline.banks import opening as banks
from patchline.banks.folder_objects import is_folder
from patchline.banks.versions import Versions
from patchline.operations.findings import Finding, State
from patchline.protocol.errors import PatchlineError, SetupError
from patchline.runtime import this_user

_BANKS, _COPIES, _ARCHIVE, _PICTURES = "bank store", "bank copies", "archive", "pictures"
_LITTLE_BYTES = 1_000_000_000  # of free space: a memory bank has up to some 100 MB


def run(settings: config.Config) -> Iterator[Finding]:
    """Look at the stores that are configured."""
    if settings.banks.store is not None:
        yield from bank_store(settings)
        yield _copies(settings.paths.served_banks)
    yield from archive(settings)


def bank_store(settings: config.Config) -> Iterator[Finding]:
    """Whether this user may read the store of the memory banks, and write to it."""
    store = settings.banks.store
    try:
        versions = banks.versions(settings)
        active = {name: versions.state(name).active for name in settings.categories}
        served = sum(version is not None for version in active.values())
        text = f"{store}: can be read; {served} of {len(active)} categories have an active version"
        yield Finding(_BANKS, State.OK, text)
        yield _writing(versions, settings)
    except SetupError as error:
        yield Finding(_BANKS, State.PROBLEM, str(error))
        return
    if isinstance(store, Path):
        yield _space(_BANKS, store)


def _writing(versions: Versions, settings: config.Config) -> Finding:
    """What this user may do in the store. Raises SetupError if nobody may do anything."""
    user, names = this_user.name(), list(settings.categories)
    acts = [versions.why_closed(f"{name}/log") for name in names]
    closed = [reason for reason in acts if reason is not None]
    if not closed:
        return Finding(_BANKS, State.OK, f"{user} may publish and activate")
    if versions.why_closed("") is None:
        advice = "give it the permissions of the store's folder"
        return Finding(_BANKS, State.PROBLEM, f"{closed[0]}, but elsewhere in the store; {advice}")
    reports = all(versions.why_closed(f"{name}/reports") is None for name in names)
    text = "reports of its workers are in the audit log" if reports else "the audit log has no reports of its workers"
    return Finding(_BANKS, State.NOTE, f"{user} may only read, which is enough to serve; {text} ({closed[0]})")


def _copies(folder: Path) -> Finding:
    """Whether a worker of this user can keep copies of the versions that it serves."""
    there = next(each for each in (folder, *folder.parents) if is_folder(each))
    if not os.access(there, os.W_OK | os.X_OK):
        user = this_user.name()
        text = f"{there}: {user} may not write there, so its workers cannot serve a version (paths.served_banks)"
        return Finding(_COPIES, State.PROBLEM, text)
    return _space(_COPIES, there)


def archive(settings: config.Config) -> Iterator[Finding]:
    """Whether the database of the archive answers, and whether its pictures can be stored."""
    folder = settings.paths.archive
    if not settings.archive.url and not is_folder(folder):
        yield Finding(
            _ARCHIVE, State.NOTE, f"{folder}: {this_user.name()} finds no archive; `patchline archive` makes it"
        )
        return
    yield _database(settings)
    if not settings.archive.url:
        yield _space(_ARCHIVE, folder)
    if settings.archive.pictures.sent:
        yield _pictures(settings)


def _database(settings: config.Config) -> Finding:
    shown = "PostgreSQL" if settings.archive.url else str(archives.target(settings))
    try:
        with closing(archives.open_archive(settings, Access.READ)) as opened:
            opened.check()
    except (PatchlineError, Unavailable) as error:
        return Finding(_ARCHIVE, State.PROBLEM, f"{shown} cannot be read by {this_user.name()}: {error}")
    return Finding(_ARCHIVE, State.OK, f"{shown} answers")


def _pictures(settings: config.Config) -> Finding:
    """Whether this user can store pictures, and how much room they have."""
    try:
        archives.open_store(settings).check_writing()
    except (StoreUnavailable, SetupError) as error:
        return Finding(_PICTURES, State.PROBLEM, f"cannot be stored by {this_user.name()}: {error}")
    store = settings.archive.pictures.store
    if store:
        return Finding(_PICTURES, State.OK, f"{store}: can be written")
    return _space(_PICTURES, settings.paths.archive / archives.PICTURES)


def _space(subject: str, folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    state = State.NOTE if free < _LITTLE_BYTES else State.OK
    return Finding(subject, state, f"{folder}: {free / 1e9:.1f} GB of its disk are free")
