"""How long a part took from one of its stations to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from patchline.archive.base import Record
from patchline.archive.ledger import Acted, Announced, Entry, Found
from patchline.console.texts import mark
from patchline.protocol.gate_messages import ActState

STAGES: dict[str, str] = {
    "decode": mark("read the image"),
    "preprocess": mark("resize it"),
    "extract": mark("compute features"),
    "search": mark("search the memory bank"),
    "score": mark("compute the score"),
    "heat_map": mark("draw the heat map"),
}


@dataclass(frozen=True)
class Stretch:
    """The time between two stations.

    Attributes:
        name: what happened meanwhile, to be translated.
        took_ms: negative if the clocks of two hosts differ by more than it took.
        begin: of the bar, in percent of the whole way; None: there is no bar, as of a negative time.
        share: the length of the bar in percent.
    """

    name: str
    took_ms: int
    begin: float | None = None
    share: float = 0.0


@dataclass(frozen=True)
class Times:
    """The way of a part.

    Attributes:
        stretches: in order, between the stations that are known.
        spare_ms: from the verdict to the deadline; None if there is no deadline or no verdict.
        stages: of the worker, and how many milliseconds each took.
    """

    stretches: tuple[Stretch, ...]
    spare_ms: int | None
    stages: Mapping[str, float]


def times(record: Record | None, deadline: int | None, stages: Mapping[str, float], entries: list[Entry]) -> Times:
    """Return the way of a part.

    Args:
        record: its first verdict, if there is one.
        deadline: of the verdict, in epoch milliseconds.
        stages: of the worker, in milliseconds.
        entries: of its ledger.
    """
    announced = next((one for one in entries if isinstance(one, Announced)), None)
    acted = [one.acted_at for one in entries if isinstance(one, Acted) and one.state == ActState.DONE]
    found = [one.found_at for one in entries if isinstance(one, Found)]
    captured, announced_at, due = None, None, deadline
    if announced is not None:
        captured, announced_at, due = announced.captured_at, announced.announced_at, deadline or announced.deadline
    elif record is not None:
        captured = record.captured_at
    received_at, decided_at = (None, None) if record is None else (record.received_at, record.decided_at)
    stations = (
        ("", captured),
        (mark("until it was announced"), announced_at),
        (mark("in the queue"), received_at),
        (mark("at the worker, until the verdict"), decided_at),
        (mark("until the gate had acted"), min(acted, default=None)),
        (mark("until the sensor had seen it"), min(found, default=None)),
    )
    spare_ms = None if due is None or decided_at is None else due - decided_at
    return Times(_stretches([(name, at) for name, at in stations if at is not None]), spare_ms, stages)


def _stretches(stations: list[tuple[str, int]]) -> tuple[Stretch, ...]:
    if len(stations) < 2:
        return ()
    first, last = stations[0][1], stations[-1][1]
    whole = max(1, last - first)
    found = []
    for (_, before), (name, at) in pairwise(stations):
        begin, share = 100 * (before - first) / whole, 100 * (at - before) / whole
        is_shown = at >= before >= first and at <= last
        found.append(Stretch(name, at - before, begin, share) if is_shown else Stretch(name, at - before))
    return tuple(found)
