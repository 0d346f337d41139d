"""The folder in which the console hands pictures to the publishers of lines: FOLDER/LINE/CATEGORY/PART.SUFFIX.

A publisher takes them as those of a camera (`patchline publish --hand-in`). What it has taken stays here for a week.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from patchline.console import picture_names
from patchline.protocol import messages
from patchline.protocol.errors import SetupError
from patchline.runtime import disk

_KEPT_S = 7 * 86_400.0
_TOKEN_BYTES = 4  # that keep pictures of one name apart, as parts, too
# The names that pictures are given here. Whatever else somebody keeps in such folders is left alone.
_SUFFIXES = "|".join(map(re.escape, picture_names.SUFFIXES.values()))
_OURS = re.compile(rf"[A-Za-z0-9._-]+-[0-9a-f]{{{2 * _TOKEN_BYTES}}}({_SUFFIXES})")


class HandIn:
    """Takes pictures that were uploaded.

    Args:
        folder: has a folder for each line to which pictures may be sent.
        min_free_bytes: of its disk, that are left.
        clock: the wall clock, in seconds.

    Raises:
        SetupError: it is no folder, or cannot be written. The methods raise this, too.
    """

    def __init__(self, folder: Path, min_free_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._min_free_bytes, self._clock = folder, min_free_bytes, clock
        if not folder.is_dir():
            raise SetupError(f"{folder}: --hand-in needs an existing folder, with one for each line")
        self.incoming = folder / ".incoming"
        with self._errors():
            self.incoming.mkdir(mode=0o700, exist_ok=True)

    def lines(self) -> list[str]:
        """Return the names of the lines."""
        with self._errors():
            names = [one.name for one in self._folder.iterdir() if one.is_dir()]
        return sorted(name for name in names if re.fullmatch(messages.NAME_PATTERN, name))

    def room(self) -> int:
        """Return how many bytes may be written. Raises DiskFull: none."""
        with self._errors():
            room = shutil.disk_usage(self._folder).free - self._min_free_bytes
        if room <= 0:
            raise disk.full(self._folder)
        return room

    def put(self, line: str, category: str, name: str, content_type: str, uploaded: Path) -> str:
        """Hand a picture to a line.

        Args:
            line: one of `lines`.
            category: of the part.
            name: of the file, as its browser said it.
            content_type: of the picture.
            uploaded: the file, in `incoming`. It is moved, all or nothing.

        Returns:
            The id of the part.
        """
        part_id = f"{picture_names.stem(name)}-{secrets.token_hex(_TOKEN_BYTES)}"
        folder = self._folder / line / category
        with self._errors():
            folder.mkdir(exist_ok=True)
            os.utime(uploaded)  # its time is that of the capture
            disk.sync(uploaded)
            uploaded.rename(folder / f"{part_id}{picture_names.SUFFIXES[content_type]}")
            with suppress(OSError):  # the publisher has it already
                disk.sync(folder)
        return part_id

    def sweep(self) -> None:
        """Delete pictures that were handed in a week ago, and what an upload has left. What cannot be deleted stays."""
        with self._errors():
            left = [path for path in self.incoming.glob("*/*") if path.name.isdecimal()]
            found = [path for line in self.lines() for path in (self._folder / line).glob("*/*")]
        for path in (*left, *(one for one in found if _OURS.fullmatch(one.name))):
            with suppress(OSError):
                if path.is_file() and self._clock() - path.stat().st_mtime > _KEPT_S:
                    path.unlink()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise disk.unwritable(self._folder, error) from error
