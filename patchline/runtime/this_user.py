"""The user as whom a process runs: whose permissions count."""

from __future__ import annotations

import os
import pwd


def name() -> str:
    """Return the name, or the number of a user who has none, as in a container."""
    number = os.geteuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
