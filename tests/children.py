"""Processes below others, which may end at any time: also while a test looks at them."""

import contextlib

import psutil


def is_alive(process):
    """Return True if a process runs: it has neither ended, nor ended and waits for its parent."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def living(pid, *words, recursive=True):
    """Return the living processes below one. With words, those whose arguments begin with them."""
    found = []
    for process in psutil.Process(pid).children(recursive=recursive):
        with contextlib.suppress(psutil.NoSuchProcess):
            if is_alive(process) and (not words or tuple(process.cmdline()[1 : 1 + len(words)]) == words):
                found.append(process)
    return found


def names(processes):
    """Return the names of those processes that still have one."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(process.name())
    return found
