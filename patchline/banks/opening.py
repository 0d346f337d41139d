"""Opens the store of memory banks that the configuration names."""

from __future__ import annotations

import time

from patchline import config
from patchline.banks.folder_objects import FolderObjects
from patchline.banks.served_banks import ServedBanks
from patchline.banks.versions import Versions
from patchline.protocol.errors import SetupError


def versions(settings: config.Config) -> Versions:
    """Return the store. Raise SetupError if none is configured."""
    store = settings.banks.store
    if store is None:
        raise SetupError("banks.store is not set: name the folder that all hosts share, in the section banks")
    return Versions(FolderObjects(store), str(store), lambda: time.time_ns() // 1_000_000)


def copies(settings: config.Config) -> ServedBanks | None:
    """Return the copies of the store's versions on this host; None if no store is configured."""
    return None if settings.banks.store is None else ServedBanks(settings.paths.served_banks, versions(settings))
