"""What a person sees of a belt: a drawing in a terminal, or one line of text for each part."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from patchline.demo.belt_parts import BeltPart, BeltParts
from patchline.plant.belt import Geometry
from patchline.plc.register_map import Bin
from patchline.protocol.messages import Decision

Line = list[tuple[str, str]]

GOOD, BAD, OPEN, DIM = "bold green", "bold red", "bold yellow", "dim"
_SIGNS = {Decision.PASS: ("✓", GOOD), Decision.REVIEW: ("?", OPEN)}
_LEGEND = [("✓ looks good    ", GOOD), ("✗ defect    ", BAD), ("? doubtful    ", OPEN), ("· not judged yet", DIM)]
_LAST_REJECTS = 6
_MARGIN = 2  # columns on the left
_BINS = 22  # columns on the right


def drawing(parts: BeltParts, geometry: Geometry, now: float, width: int, title: str) -> list[Line]:
    """Return the lines for a terminal.

    Args:
        parts: what is known.
        geometry: of the belt.
        now: seconds of CLOCK_MONOTONIC.
        width: columns of the terminal.
        title: the first line.
    """
    columns = max(40, width - _MARGIN - _BINS)
    arm = round(geometry.arm_mm / geometry.end_mm * (columns - 1))
    good, reject = len(parts.in_bin(Bin.GOOD)), len(parts.in_bin(Bin.REJECT))
    margin = " " * _MARGIN
    return [
        [(title, "bold")],
        [],
        [(margin + "camera".ljust(arm - 1) + "arm", DIM)],
        [(margin, ""), *_belt(parts, geometry, columns), (f" ──▶ good bin {good:>5}", GOOD)],
        [(margin + "━" * arm, DIM), _arm(parts), ("━" * (columns - arm - 1), DIM)],
        [(margin + " " * arm, ""), (f"▼ reject bin {reject}", BAD)],
        [],
        [(margin, ""), *_LEGEND],
        [(margin, ""), *_health(parts, now)],
        [],
        [(margin + "Last rejects, and why", "bold")],
        *([(margin, ""), (f"part {part.number:>5}  ", ""), (part.reason, BAD)] for part in _last_rejects(parts)),
    ]


def sentence(part: BeltPart) -> str:
    """Return one line about a part that lies in a bin."""
    where = "good bin  " if part.bin is Bin.GOOD else "reject bin"
    return f"part {part.number:>5}  {where}  {part.reason}"


def summary(parts: BeltParts) -> list[list[object]]:
    """Return the rows of the last table."""
    good, reject = parts.in_bin(Bin.GOOD), parts.in_bin(Bin.REJECT)
    times = photo_to_coil_ms(parts.finished)
    return [
        ["parts", len(parts.finished)],
        ["good bin", len(good)],
        ["reject bin", len(reject)],
        ["in the good bin without a verdict pass", len(parts.without_pass())],
        ["defects in the good bin, judged pass", sum(bool(part.is_defect) for part in good)],
        ["good cells in the reject bin", sum(not part.is_defect for part in reject)],
        ["photo to coil, median in ms", round(statistics.median(times), 1) if times else "-"],
        ["photo to coil, slowest in ms", round(max(times), 1) if times else "-"],
    ]


def photo_to_coil_ms(parts: Iterable[BeltPart]) -> list[float]:
    """Return the times from a part's trigger until the PLC's program had its result."""
    return [1000 * (part.result_at - part.at) for part in parts if part.result_at is not None]


def _belt(parts: BeltParts, geometry: Geometry, columns: int) -> Line:
    """Return a sign for each part that the camera has seen, at its place."""
    signs: dict[int, tuple[str, str]] = {}
    for part in parts.on_belt():
        share = (parts.passed_mm(part, geometry.counts_per_mm) - geometry.part_mm / 2) / geometry.end_mm
        signs[min(columns - 1, max(0, round(share * (columns - 1))))] = _sign(part)
    return [signs.get(column, (" ", "")) for column in range(columns)]


def _sign(part: BeltPart) -> tuple[str, str]:
    if part.verdict is None:
        return "·", DIM
    return _SIGNS.get(part.verdict.decision, ("✗", BAD))


def _arm(parts: BeltParts) -> tuple[str, str]:
    return ("━", DIM) if parts.lets_pass else ("▼", BAD)


def _health(parts: BeltParts, now: float) -> Line:
    times = photo_to_coil_ms(parts.finished[-50:])
    speed = f"    photo to coil {statistics.median(times):.0f} ms" if times else ""
    if parts.objection is not None:
        return [(f"the PLC rejects everything: {parts.objection}", BAD), (speed, DIM)]
    age_s = now - parts.heartbeats[-1] if parts.heartbeats else 0.0
    return [("heartbeat ", ""), ("♥", GOOD), (f" {age_s:4.1f} s ago", ""), (speed, DIM)]


def _last_rejects(parts: BeltParts) -> list[BeltPart]:
    rejects = parts.in_bin(Bin.REJECT)[-_LAST_REJECTS:]
    return rejects[::-1]
