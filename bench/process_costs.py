"""CPU time of the processes below this one, by the name of their program. The only file that uses psutil."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import psutil


def cpu_seconds(programs: Mapping[str, str]) -> dict[str, float]:
    """Return the user and system time so far of all descendants of this process.

    Args:
        programs: a name for the result, and how the name of the program begins (as in proc(5), `comm`).
    """
    spent = dict.fromkeys(programs, 0.0)
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times, program = process.cpu_times(), process.name()
            for name, beginning in programs.items():
                if program.startswith(beginning):
                    spent[name] += times.user + times.system
    return spent
