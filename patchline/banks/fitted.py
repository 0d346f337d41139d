"""Which categories have a memory bank on this host."""

from __future__ import annotations

from patchline import config
from patchline.banks.served_banks import ServedBanks
from patchline.protocol.errors import SetupError

IN_STORE = "store"


def banks(settings: config.Config, copies: ServedBanks | None) -> dict[str, str]:
    """Return the configured categories that have a bank, and what tells one bank of `paths.memory_banks` from another.

    Args:
        settings: the configuration.
        copies: the copies of the store's versions on this host; None if there is no store. A category with an active
            version has the value `IN_STORE`, whichever version that is: workers switch by themselves.
    """
    found: dict[str, str] = {}
    for name in settings.categories:
        if copies is not None and _is_stored(name, copies):
            found[name] = IN_STORE
            continue
        folder = settings.paths.memory_banks / name
        if folder.is_dir():
            status = folder.stat()
            found[name] = f"folder {status.st_ino} of {status.st_mtime_ns}"
    return found


def new_categories(settings: config.Config, copies: ServedBanks | None) -> list[str]:
    """Return the categories of the store that the configuration does not name, and that are served all the same.

    They have an active version, and the recipe of `banks.new_categories_like`. Without that there are none.

    Raises:
        SetupError: the store cannot be read.
    """
    if copies is None or settings.banks.new_categories_like is None:
        return []
    versions = copies.versions
    unnamed = (name for name in versions.categories() if name not in settings.categories)
    return [name for name in unnamed if versions.state(name).active is not None]


def _is_stored(name: str, copies: ServedBanks) -> bool:
    """Return True if the store has an active version of a category, or had one when it was last read."""
    try:
        return copies.versions.state(name).active is not None
    except SetupError:
        return (copies.folder / name).is_dir()
