"""Work that nobody may wait for: it takes what is left of the processors."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_NICEST = 19
_FIRST_TO_END = 1000


def stand_back() -> None:
    """Give this process the lowest priority, and have Linux end it first if memory is short.

    A nice value counts within a session only (sched(7), autogroup): give the process a session of its own.
    """
    os.nice(_NICEST)
    for file, value in (("autogroup", _NICEST), ("oom_score_adj", _FIRST_TO_END)):
        with suppress(OSError):  # the kernel may have no groups, and a container may not write here
            Path("/proc/self", file).write_text(str(value), encoding="ascii")
