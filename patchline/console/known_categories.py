"""The categories that pages know."""

from __future__ import annotations

from contextlib import suppress

from patchline.banks import known_categories
from patchline.console.context import Console
from patchline.protocol.errors import SetupError


def names(console: Console) -> list[str]:
    """Return their names in order. While the store is away, they are those of the configuration."""
    if console.banks is not None:
        with suppress(SetupError):
            return known_categories.names(console.settings, console.banks)
    return sorted(console.settings.categories)
