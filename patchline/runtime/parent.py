"""Child processes that end with their parent, also when the parent is killed (prctl(2), PR_SET_PDEATHSIG)."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_PARENT_IS_GONE = 71
_libc = ctypes.CDLL(None, use_errno=True)  # loaded here: after a fork, a child should load nothing


def end_with_parent(also: Callable[[], None] = lambda: None) -> Callable[[], None]:
    """Return the `preexec_fn` of a child that is killed as soon as this thread or process ends.

    Args:
        also: called in the child too.
    """
    parent = os.getpid()

    def prepare() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it ended before the line above
            os._exit(_PARENT_IS_GONE)
        also()

    return prepare
