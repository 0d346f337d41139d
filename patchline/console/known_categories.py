"""The categories that pages know: those of the configuration, and those that the store has beside them."""

from __future__ import annotations

from contextlib import suppress

from patchline.console.context import Console
from patchline.protocol.errors import SetupError


def names(console: Console) -> list[str]:
    """Return their names in order. While the store is away, they are those of the configuration."""
    known = set(console.settings.categories)
    if console.banks is not None and console.settings.banks.new_categories_like is not None:
        with suppress(SetupError):
            known.update(console.banks.categories())
    return sorted(known)
