"""Opens the store of memory banks that the configuration names."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from patchline import config
from patchline.banks.folder_objects import FolderObjects
from patchline.banks.objects import Objects
from patchline.banks.prepared import PreparedBanks
from patchline.banks.served_banks import ServedBanks
from patchline.banks.versions import Versions
from patchline.protocol.errors import SetupError


def versions(settings: config.Config) -> Versions:
    """Return the store. Raise SetupError if none is configured, or if a bucket cannot be used as it is configured."""
    return Versions(objects(settings.banks), str(settings.banks.store), lambda: time.time_ns() // 1_000_000)


def objects(rules: config.Banks) -> Objects:
    """Return what the store is made of. Raises SetupError, see `versions`."""
    store = rules.store
    if store is None:
        raise SetupError("banks.store is not set: name the folder or bucket that all hosts share, in the section banks")
    if isinstance(store, Path):
        return FolderObjects(store)
    from patchline.banks.s3_objects import QUICK_S, S3Objects
    from patchline.runtime.bucket import Bucket

    bucket = partial(Bucket, store, rules.endpoint, rules.region)
    return S3Objects(bucket(), bucket(request_s=QUICK_S))


def copies(settings: config.Config) -> ServedBanks | None:
    """Return the copies of the store's versions on this host; None if no store is configured."""
    return None if settings.banks.store is None else ServedBanks(settings.paths.served_banks, versions(settings))


def prepared(settings: config.Config, warn: Callable[[str], None]) -> PreparedBanks:
    """Return the banks that are prepared on this host, beside the copies; `warn` is told if they cannot be kept."""
    return PreparedBanks(settings.paths.served_banks / ".prepared", warn)
