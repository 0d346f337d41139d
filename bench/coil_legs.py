"""Where the time of a part goes between the trigger and its PLC, and where that of the slowest parts goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from statistics import fmean

from bench.table import Row, ratio_row
from patchline.protocol.messages import Verdict

_SLOWEST = 0.01


@dataclass(frozen=True)
class Legs:
    """The way of one part, in ms: their sum is its time from the trigger to the PLC.

    Attributes:
        to_worker: from the trigger until a lane of the worker takes the job.
        stages: what the worker's stages took: computing, and waiting for a core.
        between: the rest of the worker's time until the decision: waiting for its turn, and for Python's lock.
        to_plc: from the decision until the PLC's program has read the result.
    """

    to_worker: float
    stages: float
    between: float
    to_plc: float

    @classmethod
    def of(cls, triggered_ms: float, verdict: Verdict, read_ms: float) -> Legs:
        """Return the legs of a part.

        Args:
            triggered_ms: when the PLC triggered the camera, in epoch milliseconds.
            verdict: of the part.
            read_ms: when the PLC's program read the result, in epoch milliseconds.
        """
        stages = sum(verdict.durations_ms.values())
        return cls(
            to_worker=verdict.received_at - triggered_ms,
            stages=stages,
            between=verdict.decided_at - verdict.received_at - stages,
            to_plc=read_ms - verdict.decided_at,
        )

    @property
    def total(self) -> float:
        """The time from the trigger to the PLC."""
        return float(sum(astuple(self)))


def rows(parts: Sequence[Legs]) -> Iterator[Row]:
    """Return a row for each leg: its mean of the slowest parts, against that of all."""
    slowest = sorted(parts, key=lambda legs: legs.total)[-max(1, round(_SLOWEST * len(parts))) :]
    for field in fields(Legs):
        ours, other = (fmean(getattr(legs, field.name) for legs in several) for several in (slowest, parts))
        name = field.name.replace("_", " ").replace("plc", "PLC")
        yield ratio_row(f"slowest {_SLOWEST:.0%}, mean, {name} : all parts", "ms", ours, other)


def cost_rows(core_ms: Mapping[str, float], parts: int, rate: float) -> Iterator[Row]:
    """Return a row for each process: its CPU time for a part, against the time in which the next part comes.

    Args:
        core_ms: CPU time of each process in ms, by its name.
        parts: that were carried.
        rate: parts per second.
    """
    for name, spent in core_ms.items():
        yield ratio_row(f"CPU of {name}, a part : time between parts", "ms", spent / parts, 1000 / rate)
