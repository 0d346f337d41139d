"""Keeps libraries from importing other ones that they use if they find them, and that nobody needs here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Let imports of these modules fail within the block, as if they were not installed.

    Afterwards they can be imported. What was imported before stays so.
    """
    hidden = [name for name in names if name not in sys.modules]
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]
    modules.update(dict.fromkeys(hidden))  # None is what makes an import fail
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
