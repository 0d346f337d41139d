"""Python's garbage collector in processes that must answer in time.

A full collection looks at every object while it holds Python's lock: for 60 ms in a worker, whose libraries have made
100,000 of them. Nearly all stay until the process ends.
"""

from __future__ import annotations

import gc


def settle() -> None:
    """Leave everything that exists now out of all later collections. Call it once a process is ready."""
    gc.collect()
    gc.freeze()
