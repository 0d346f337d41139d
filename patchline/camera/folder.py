"""A folder as a camera: each trigger shows the next file, in the order of the names, round and round."""

from __future__ import annotations

from pathlib import Path

from patchline.camera.base import CameraLostError, Frame, NoFrameError
from patchline.protocol import image_files
from patchline.protocol.errors import SetupError


class FolderCamera:
    """Shows the images of a folder and its subfolders, byte for byte. See `Camera`.

    The list is made by `open`. A camera that is opened again goes on after the last file that it has shown.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[Path] = []
        self._shown = 0
        self._next: Path | None = None

    def open(self) -> None:
        """See `Camera`."""
        try:
            self._files = image_files.find([self._folder])
        except SetupError as error:
            raise CameraLostError(str(error)) from error

    def arm(self) -> None:
        """See `Camera`."""
        self._next = None
        self._check()

    def trigger(self) -> None:
        """See `Camera`."""
        self._check()
        self._next = self._files[self._shown % len(self._files)]
        self._shown += 1

    def grab(self, timeout_s: float) -> Frame:
        """See `Camera`."""
        self._check()
        path, self._next = self._next, None
        if path is None:
            raise NoFrameError("the folder was not triggered")
        try:
            return Frame(path.read_bytes())
        except OSError as error:
            raise CameraLostError(f"{path}: cannot be read ({error.strerror})") from error

    def close(self) -> None:
        """See `Camera`."""
        self._files = []

    def _check(self) -> None:
        if not self._files:
            raise CameraLostError(f"{self._folder} is not open")
