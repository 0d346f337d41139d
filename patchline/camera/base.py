"""What every camera does: one trigger, one frame. Which part a frame shows is known by the trigger, never by the frame.

Frame ids of cameras wrap, begin anew, and are those of an old frame in a broken one. A lost trigger leaves no gap in
them. Therefore one trigger is outstanding at a time, and a frame that comes too late is thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from patchline.protocol.errors import PatchlineError


class CameraError(PatchlineError):
    """A camera gave no frame for a trigger. The text says why, for the verdict of the part.

    `cause` is the label of a metric.
    """

    cause = "other"


class NoFrameError(CameraError):
    """No frame came in time: the trigger or the frame was lost, or it is late. The camera may be well."""

    cause = "no_frame"


class LateTriggerError(CameraError):
    """The camera had its trigger so late that its frame may show what is behind the part."""

    cause = "late_trigger"


class LateFrameError(CameraError):
    """The frame of the trigger came too late. The camera is well."""

    cause = "no_frame"


class BrokenFrameError(CameraError):
    """A frame came, and its camera or driver says that it is incomplete. Nothing else in it can be believed."""

    cause = "broken"


class CameraLostError(CameraError):
    """The camera is gone, or another program controls it. It must be closed and opened anew."""

    cause = "lost"


@dataclass(frozen=True)
class Frame:
    """One picture, as the camera gave it.

    Attributes:
        data: the pixels row by row, without padding; more than 8 bits are in 16, low bits first, little-endian. Or an
            encoded file, if there is no pixel format.
        pixel_format: its name in the Pixel Format Naming Convention (PFNC) of GenICam, such as Mono8 or BayerRG12.
        width: in pixels; 0 for an encoded file.
        height: in pixels; 0 for an encoded file.
    """

    data: bytes = field(repr=False)
    pixel_format: str | None = None
    width: int = 0
    height: int = 0


class Camera(Protocol):
    """One camera, from `open` to `close`. Called by one thread. After `close` it may be opened again.

    Every call returns within its bounds, whatever the camera does: `grab` within its timeout and a second, `open`
    within 15 s and the frame timeout, the others within 15 s. Whoever calls it does not depend on this.
    """

    def open(self) -> None:
        """Connect, apply the settings, and read back that the camera waits for a software trigger.

        Raises:
            CameraLostError: it does not answer, refuses a setting, or another program controls it.
        """
        ...

    def arm(self) -> None:
        """Be ready for a trigger. Frames of earlier triggers are thrown away, also those that are still to come.

        To be called before each trigger, as early as possible: a camera may not be ready for some milliseconds after a
        frame, and then a trigger is lost without a sign.

        Raises:
            CameraLostError: the camera is gone.
        """
        ...

    def trigger(self) -> None:
        """Take one picture.

        Raises:
            CameraLostError: the camera is gone.
        """
        ...

    def grab(self, timeout_s: float) -> Frame:
        """Return the frame of the last trigger.

        Args:
            timeout_s: how long to wait for it.

        Raises:
            NoFrameError: none came in time.
            BrokenFrameError: it is incomplete.
            CameraLostError: the camera is gone.
        """
        ...

    def close(self) -> None:
        """End the connection. Raises nothing."""
        ...
