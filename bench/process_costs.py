"""CPU time of the processes below this one, by their program or their command. The only file that uses psutil."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import psutil

_GUARD = "guard.py"  # names in its arguments what it guards (see `patchline.services.server`)


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


def cpu_seconds_of_commands(commands: Mapping[str, str]) -> dict[str, float]:
    """Return the user and system time so far of all descendants of this process.

    Args:
        commands: a name for the result, and words that its command line, and no other, contains.
    """
    spent = dict.fromkeys(commands, 0.0)
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            command, times = " ".join(process.cmdline()), process.cpu_times()
            for name, words in commands.items():
                if words in command and _GUARD not in command:
                    spent[name] += times.user + times.system
    return spent
