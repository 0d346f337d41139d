"""The heaps of a process with many threads.

glibc gives each thread a heap of its own, up to eight for each core. Each keeps what its largest pictures needed, and
nothing returns the end of it.
"""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8  # of mallopt(3)


def share(count: int) -> None:
    """Have all threads of this process share `count` heaps. Call it before there are many threads.

    With another C library than glibc, nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, count)


def trim() -> None:
    """Return what this process has freed to the system: what it needed to start, say.

    With another C library than glibc, nothing changes.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
