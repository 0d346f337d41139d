"""The user as whom a process runs, whose permissions count, and the person behind it."""

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


def person() -> str:
    """Return who acts, for a record: the name of the user, and behind sudo that of the person and not root."""
    return os.environ.get("SUDO_USER") or os.environ.get("LOGNAME") or os.environ.get("USER") or name()
