"""The folder of a demo: its marker, and its configuration."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from patchline import config
from patchline.protocol.errors import SetupError
from patchline.runtime import disk, locks

_MARKER = ".patchline-demo"  # in the folder of a demo, so that the next one may delete it
_FOLDERS = {
    "memory_banks": "memory-banks",
    "served_banks": "served-banks",
    "spool": "spool",
    "gate": "gate-memory",
    "archive": "archive",
}


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Create `out`, delete what an earlier demo left there, and let no other demo use it until the block ends.

    Raises:
        SetupError: `out` is a file, a folder with other files than a demo's, or that of a demo that runs.
    """
    marker = out / _MARKER
    if out.exists() and not marker.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SetupError(f"{out}: is not a folder of an earlier demo; choose a new or empty folder with --out")
    try:
        out.resolve().mkdir(parents=True, exist_ok=True)
        lock = locks.claim(marker, f"{out}: a demo runs in this folder; end it, or choose another folder with --out")
    except OSError as error:
        raise disk.unwritable(out, error) from error
    try:
        _clear(out)
        yield
    finally:
        os.close(lock)


def _clear(out: Path) -> None:
    for path in out.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != _MARKER:
            path.unlink()


def settings_for(settings: config.Config, out: Path, categories: Sequence[str]) -> config.Config:
    """Return the settings with these categories and all files in `out`, and save them in `out`."""
    folders = {name: (out / folder).resolve() for name, folder in _FOLDERS.items()}
    paths = settings.paths.model_copy(update=folders)
    chosen = {name: settings.category(name) for name in categories}
    console = settings.console.model_copy(update={"database": (out / "console" / "console.sqlite").resolve()})
    settings = settings.model_copy(update={"paths": paths, "categories": chosen, "console": console})
    config.save(settings, out / "config.yaml")
    return settings
