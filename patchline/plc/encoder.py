"""Counts of an encoder: signed numbers of 32 bits that wrap."""

from __future__ import annotations

from patchline.plc.register_map import NO_COUNT


def wrap(count: int) -> int:
    """Return a count as a signed number of 32 bits. `NO_COUNT` means that there is none, so its neighbour stands in."""
    wrapped = (count + 2**31) % 2**32 - 2**31
    return NO_COUNT + 1 if wrapped == NO_COUNT else wrapped


def difference(later: int, earlier: int) -> int:
    """Return how far the belt has moved from one count to another, across the wrap. Negative: backwards."""
    return (later - earlier + 2**31) % 2**32 - 2**31
