"""All frames of a process have one size. With another one, parts look as the memory bank has never seen them."""

from __future__ import annotations

from patchline.camera.base import Frame
from patchline.camera.pixels import UnfitFrameError


class FrameSize:
    """The size of the first frame. Later ones of another size are no images: the recipe would scale them."""

    def __init__(self) -> None:
        self._size: tuple[int, int] | None = None

    def check(self, frame: Frame) -> None:
        """Check that a frame has the size of the first one. Encoded files are not looked at.

        Raises:
            UnfitFrameError: it has another one.
        """
        if frame.pixel_format is None:
            return
        size = frame.width, frame.height
        self._size = self._size or size
        if size != self._size:
            (width, height), (before_width, before_height) = size, self._size
            raise UnfitFrameError(
                f"the frame has {width} x {height} pixels, and the first one had {before_width} x {before_height}; "
                "set the camera back, or fit on frames of the new size and start this process anew"
            )
