"""The folder of a demo: its marker, and its configuration."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from patchline import config
from patchline.protocol.errors import SetupError

_MARKER = ".patchline-demo"  # in the folder of a demo, so that the next one may delete it
_FOLDERS = {
    "memory_banks": "memory-banks",
    "served_banks": "served-banks",
    "spool": "spool",
    "gate": "gate-memory",
    "archive": "archive",
}


def prepare(out: Path) -> None:
    """Create `out`, and delete what an earlier demo left there.

    Raises:
        SetupError: `out` is a file, or a folder with other files than a demo's.
    """
    marker = out / _MARKER
    if out.exists() and not marker.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SetupError(f"{out}: is not a folder of an earlier demo; choose a new or empty folder with --out")
    shutil.rmtree(out.resolve(), ignore_errors=True)
    out.resolve().mkdir(parents=True)
    marker.touch()


def settings_for(settings: config.Config, out: Path, categories: Sequence[str]) -> config.Config:
    """Return the settings with these categories and all files in `out`, and save them in `out`."""
    folders = {name: (out / folder).resolve() for name, folder in _FOLDERS.items()}
    paths = settings.paths.model_copy(update=folders)
    chosen = {name: settings.category(name) for name in categories}
    console = settings.console.model_copy(update={"database": (out / "console" / "console.sqlite").resolve()})
    settings = settings.model_copy(update={"paths": paths, "categories": chosen, "console": console})
    config.save(settings, out / "config.yaml")
    return settings
