"""The physics of a belt: parts, an encoder, light barriers, an arm and two bins. Time is passed in.

Positions are millimetres along the belt, from the light barrier of the trigger. A part falls off the end into the good
bin unless the arm has pushed it into the reject bin before. The arm is out while its coil has no current: what nobody
accepts is rejected.
"""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from patchline.plc import encoder
from patchline.plc.register_map import Bin

_TICK_S = 0.001


@dataclass(frozen=True)
class Geometry:
    """The plant, in millimetres and seconds.

    Attributes:
        feed_mm: where parts are placed.
        arm_mm: the middle of the arm.
        sensor_mm: the light barrier behind the arm.
        end_mm: the end of the belt.
        reach_mm: the arm pushes a part whose middle is no further than this from the arm's middle.
        part_mm: length of a part.
        pitch_mm: distance between parts.
        scatter_mm: a part lies up to this far from its place.
        counts_per_mm: resolution of the encoder.
        arm_s: time for the whole way of the arm.
        acceleration_mm_s2: how fast the belt changes its speed.
    """

    feed_mm: float = -200.0
    arm_mm: float = 2000.0
    sensor_mm: float = 2060.0
    end_mm: float = 2200.0
    reach_mm: float = 5.0
    part_mm: float = 30.0
    pitch_mm: float = 50.0
    scatter_mm: float = 5.0
    counts_per_mm: int = 10
    arm_s: float = 0.008
    acceleration_mm_s2: float = 2000.0


@dataclass(frozen=True)
class Inputs:
    """What the sensors give to a PLC in one cycle.

    Attributes:
        count: the encoder's count at the end of the cycle.
        triggers: counts at which parts reached the light barrier of the trigger. Fast inputs latch them.
        sensed: counts at which parts reached the light barrier behind the arm.
        pushed: counts at which parts passed the light barrier of the reject bin's chute.
    """

    count: int
    triggers: tuple[int, ...] = ()
    sensed: tuple[int, ...] = ()
    pushed: tuple[int, ...] = ()


@dataclass(frozen=True)
class Part:
    """A part: its place in the order of all parts, what it looks like, and where it lies relative to the belt."""

    index: int
    picture: str
    offset_mm: float


@dataclass
class Belt:
    """The belt and everything on it.

    Args:
        geometry: the plant.
        picture_of: returns the picture of a part from its index.
        rng: where parts lie exactly, and the jitter of the encoder.
        first_count: the encoder's count at the start.
        parts: number of parts that are placed; None: no end.
    """

    geometry: Geometry
    picture_of: Callable[[int], str]
    rng: random.Random
    first_count: int = 0
    parts: int | None = None
    speed_mm_s: float = 0.0
    position_mm: float = 0.0
    arm: float = 1.0  # 0: in, 1: out
    placed: int = 0
    on_belt: list[Part] = field(default_factory=list)
    _fallen: list[tuple[Part, Bin]] = field(default_factory=list)
    _covered: dict[float, bool] = field(default_factory=dict)

    def advance(self, seconds: float, coil: bool, target_mm_s: float) -> Inputs:
        """Let time pass.

        Args:
            seconds: how much.
            coil: the arm's coil has current, which draws it in.
            target_mm_s: the speed that the drive is to reach; negative: backwards.
        """
        triggers: list[int] = []
        sensed: list[int] = []
        pushed: list[int] = []
        for _ in range(round(seconds / _TICK_S)):
            self._move(target_mm_s)
            self._swing(coil)
            self._place()
            triggers += self._edge(0.0)
            sensed += self._edge(self.geometry.sensor_mm)
            pushed += self._push()
            self._drop()
        return Inputs(self.count(), tuple(triggers), tuple(sensed), tuple(pushed))

    def count(self) -> int:
        """Return the encoder's count. It jitters by one."""
        count = int(self.position_mm * self.geometry.counts_per_mm // 1) + self.rng.randint(-1, 1)
        return encoder.wrap(self.first_count + count)

    def take_fallen(self) -> list[tuple[Part, Bin]]:
        """Return the parts that have fallen into a bin since the last call, and the bins."""
        fallen, self._fallen = self._fallen, []
        return fallen

    def part_before_the_camera(self) -> Part | None:
        """Return the part whose middle is nearest to the trigger, where the camera is."""
        return min(self.on_belt, key=lambda part: abs(self._middle(part)), default=None)

    def part_in_view(self) -> Part | None:
        """Return what a camera sees whose view begins at the trigger: the last part that has reached it."""
        seen = self._between(-self.geometry.part_mm / 2, math.inf)
        return seen[-1] if seen else None

    def _middle(self, part: Part) -> float:
        return self.position_mm + part.offset_mm

    def _between(self, low_mm: float, high_mm: float) -> list[Part]:
        """Return the parts whose middle is between two positions. The first one on the belt is the furthest."""
        first = bisect.bisect_left(self.on_belt, self.position_mm - high_mm, key=lambda part: -part.offset_mm)
        last = bisect.bisect_right(self.on_belt, self.position_mm - low_mm, key=lambda part: -part.offset_mm)
        return self.on_belt[first:last]

    def _move(self, target_mm_s: float) -> None:
        change = self.geometry.acceleration_mm_s2 * _TICK_S
        self.speed_mm_s += max(-change, min(change, target_mm_s - self.speed_mm_s))
        self.position_mm += self.speed_mm_s * _TICK_S

    def _swing(self, coil: bool) -> None:
        way = _TICK_S / self.geometry.arm_s
        self.arm = max(0.0, self.arm - way) if coil else min(1.0, self.arm + way)

    def _place(self) -> None:
        geometry = self.geometry
        while self.placed != self.parts and self.position_mm >= self.placed * geometry.pitch_mm:
            scatter = self.rng.uniform(-geometry.scatter_mm, geometry.scatter_mm)
            offset = geometry.feed_mm - self.placed * geometry.pitch_mm + scatter
            self.on_belt.append(Part(self.placed, self.picture_of(self.placed), offset))
            self.placed += 1

    def _edge(self, barrier_mm: float) -> list[int]:
        """Return the count if a part has just begun to interrupt a light barrier."""
        half = self.geometry.part_mm / 2
        covered = bool(self._between(barrier_mm - half, barrier_mm + half))
        before, self._covered[barrier_mm] = self._covered.get(barrier_mm, False), covered
        return [self.count()] if covered and not before else []

    def _push(self) -> list[int]:
        """Push what lies in front of the arm off the belt if the arm is out at least half its way."""
        if self.arm < 0.5:
            return []
        arm_mm, reach_mm = self.geometry.arm_mm, self.geometry.reach_mm
        hit = self._between(arm_mm - reach_mm, arm_mm + reach_mm)
        self._fall(hit, Bin.REJECT)
        return [self.count() for _ in hit]

    def _drop(self) -> None:
        self._fall(self._between(self.geometry.end_mm, math.inf), Bin.GOOD)

    def _fall(self, parts: list[Part], where: Bin) -> None:
        for part in parts:
            self.on_belt.remove(part)
            self._fallen.append((part, where))
