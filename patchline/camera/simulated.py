"""A camera that exists in this process only: textures or given pictures, and the faults of real cameras, on purpose.

The same seed gives the same pictures and the same faults at the same triggers.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

import numpy as np

from patchline.camera.base import BrokenFrameError, CameraLostError, Frame, NoFrameError
from patchline.protocol.errors import SetupError

_TEXTURE_PIXELS = 128
_MAX_S = 3600


class Fault(StrEnum):
    """What may happen at a trigger."""

    LOST = "lost"  # no frame, and no sign of it
    LATE = "late"  # its frame comes after `late_s`, possibly when the next trigger waits for its own
    BROKEN = "broken"  # its frame is incomplete
    DIE = "die"  # the camera is gone for `down_s`
    BLOCK = "block"  # the call does not return for `block_s`


@dataclass(frozen=True)
class Plan:
    """What a simulated camera does. Probabilities are per trigger.

    Attributes:
        seed: of pictures and faults.
        lost: probability of the fault, as for the next four.
        late: see `Fault`.
        broken: see `Fault`.
        die: see `Fault`.
        block: see `Fault`.
        frame_s: from the trigger to the frame. A trigger before that is merged into the one before.
        late_s: from the trigger to a late frame.
        down_s: how long a dead camera is gone.
        block_s: how long a call blocks.
    """

    seed: int = 0
    lost: float = 0.0
    late: float = 0.0
    broken: float = 0.0
    die: float = 0.0
    block: float = 0.0
    frame_s: float = 0.02
    late_s: float = 0.5
    down_s: float = 3.0
    block_s: float = 2.5

    def fault(self, trigger: int) -> Fault | None:
        """Return the fault at a trigger."""
        draw = random.Random(f"{self.seed}/{trigger}").random()
        for fault in Fault:
            draw -= getattr(self, fault)
            if draw < 0:
                return fault
        return None


def parse_plan(text: str) -> Plan:
    """Return the plan of a text such as `seed=7,lost=0.01,die=0.001`.

    Raises:
        SetupError: a name or number is not known.
    """
    kinds: dict[str, type[int] | type[float]] = {item.name: float for item in fields(Plan)} | {"seed": int}
    values: dict[str, Any] = {}
    for word in filter(None, text.split(",")):
        name, _, number = word.partition("=")
        try:
            values[name] = kinds[name](number)
        except (KeyError, ValueError):
            known = ", ".join(kinds)
            raise SetupError(f"simulated:{text}: {word!r} is no setting and number; known: {known}") from None
        greatest = 1 if name in set(Fault) else _MAX_S if name.endswith("_s") else sys.maxsize
        if not 0 <= values[name] <= greatest:
            raise SetupError(f"simulated:{text}: {name} must be between 0 and {greatest}")
    return Plan(**values)


def texture(seed: int, number: int) -> Frame:
    """Return a grey picture that differs with its number: smooth noise, 128 x 128, Mono8."""
    noise = np.random.default_rng([seed, number]).integers(60, 200, (16, 16), np.uint8)
    pixels = np.kron(noise, np.ones((8, 8), np.uint8))
    return Frame(pixels.tobytes(), "Mono8", _TEXTURE_PIXELS, _TEXTURE_PIXELS)


@dataclass
class Device:
    """The camera itself, which goes on while nobody is connected.

    Attributes:
        plan: what it does.
        picture: returns what it shows at a trigger, by the number of the trigger from 0 on; None: textures.
        clock: a monotonic clock in seconds.
        wait: waits for some seconds, or less.
    """

    plan: Plan = field(default_factory=Plan)
    picture: Callable[[int], Frame] | None = None
    clock: Callable[[], float] = time.monotonic
    wait: Callable[[float], object] = field(default_factory=lambda: threading.Event().wait)
    triggers: int = 0
    down_until: float = float("-inf")
    connections: int = 0
    exposing_until: float = float("-inf")

    def show(self, trigger: int) -> Frame:
        """Return the picture of a trigger."""
        return texture(self.plan.seed, trigger) if self.picture is None else self.picture(trigger)


class SimulatedCamera:
    """A connection to a `Device`. A connection that has lost its camera stays lost. See `Camera`."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._connection = 0
        self._frames: deque[tuple[float, Frame | None]] = deque()  # when they come; None is a broken one

    def open(self) -> None:
        """See `Camera`."""
        if self._device.clock() < self._device.down_until:
            raise CameraLostError("the simulated camera does not answer")
        self._device.connections += 1
        self._connection = self._device.connections
        self._frames.clear()

    def arm(self) -> None:
        """See `Camera`."""
        self._check()
        self._frames.clear()

    def trigger(self) -> None:
        """See `Camera`."""
        self._check()
        device = self._device
        now, number, plan = device.clock(), device.triggers, device.plan
        device.triggers += 1
        if now < device.exposing_until:
            return  # merged: nobody is told
        device.exposing_until = now + plan.frame_s
        fault = plan.fault(number)
        if fault is Fault.DIE:
            device.down_until = now + plan.down_s
            device.connections += 1
        elif fault is Fault.BLOCK:
            device.wait(plan.block_s)
        if fault in (Fault.LOST, Fault.DIE, Fault.BLOCK):
            return
        due = now + (plan.late_s if fault is Fault.LATE else plan.frame_s)
        self._frames.append((due, None if fault is Fault.BROKEN else device.show(number)))

    def grab(self, timeout_s: float) -> Frame:
        """See `Camera`."""
        self._check()
        deadline = self._device.clock() + timeout_s
        due = self._frames[0][0] if self._frames else float("inf")
        while (now := self._device.clock()) < min(due, deadline):
            self._device.wait(min(due, deadline) - now)
        self._check()
        if due > deadline:
            raise NoFrameError(f"no frame within {timeout_s * 1000:.0f} ms")
        frame = self._frames.popleft()[1]
        if frame is None:
            raise BrokenFrameError("the frame is incomplete")
        return frame

    def close(self) -> None:
        """See `Camera`."""
        self._connection = 0

    def _check(self) -> None:
        if self._connection == 0 or self._connection != self._device.connections:
            raise CameraLostError("the connection to the simulated camera is lost")
