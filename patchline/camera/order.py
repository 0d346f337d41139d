"""What `patchline camera` is to do, and the events that its process handles."""

from __future__ import annotations

from dataclasses import dataclass

from patchline.camera.base import CameraError, Frame
from patchline.camera.triggers import Sighting, Trigger

# A part at its trigger, or what the camera gave for a job, by its id. None: there are no more triggers.
Event = Trigger | Sighting | tuple[str, Frame | CameraError] | None


@dataclass(frozen=True)
class Order:
    """What `patchline camera` is to do.

    Attributes:
        line: the line of the camera.
        category: the category of the parts.
        deadline_ms: time for a verdict, from the trigger.
        rate: triggers a second; None reads them from the standard input, one line each, unless something else triggers.
        count: triggers after which the process ends; None: never.
        metrics_port: port of the metrics; None serves none.
        triggered_by: address of the PLC, MQTT broker or named pipe that triggers; None: there is none.
    """

    line: str
    category: str
    deadline_ms: int
    rate: float | None = None
    count: int | None = None
    metrics_port: int | None = None
    triggered_by: str | None = None
