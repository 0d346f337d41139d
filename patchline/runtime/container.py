"""The CPUs and the memory that this process may use: those of the machine, less the limits of its container.

Control groups, version 2 (Documentation/admin-guide/cgroup-v2.rst of Linux) and version 1: `cpu.max`, `memory.max`;
`cpu.cfs_quota_us`, `memory.limit_in_bytes`. A limit of any parent group holds too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SHARE_VARIABLE = "PATCHLINE_SHARE_OF"  # set by a supervisor: the number of processes that share the limits
_PROCESS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")
_UNLIMITED_V1 = 2**60  # version 1 writes a number near 2**63 for no limit


@dataclass(frozen=True)
class Limits:
    """What this process may use.

    Attributes:
        cpus: CPUs at the same time, at least 1; a part of a CPU counts as one.
        memory_bytes: of its group. None if it is not limited.
    """

    cpus: int
    memory_bytes: int | None


def read(process: Path = _PROCESS, groups: Path = _GROUPS) -> Limits:
    """Return the limits of this process.

    Args:
        process: the file that names the groups of this process (`/proc/self/cgroup`).
        groups: where the groups are mounted.
    """
    share = max(1, int(os.environ.get(SHARE_VARIABLE, "1")))
    cores = float(len(os.sched_getaffinity(0)))
    memory = []
    for folder in _folders(process, groups):
        cores = min(cores, _quota(folder) / share)
        memory += [limit // share for limit in _memory_limits(folder)]
    return Limits(max(1, math.ceil(cores)), min(memory, default=None))


def _folders(process: Path, groups: Path) -> Iterator[Path]:
    """Yield the folders of the groups of this process and of their parents, of both versions.

    A container may see its own group as the root, while `process` has the path of the host: a folder that does not
    exist is skipped, and the root is always read.
    """
    try:
        lines = process.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers.startswith("name="):
            continue
        root = groups / controllers if controllers else groups
        folder = Path(os.path.normpath(root / path.lstrip("/")))
        yield from (parent for parent in (folder, *folder.parents) if parent.is_relative_to(root))


def _quota(folder: Path) -> float:
    """Return the CPUs of a group, or infinity."""
    quota, period = _words(folder / "cpu.max") or ("max", "1")
    if quota == "max":
        (quota,) = _words(folder / "cpu.cfs_quota_us") or ("-1",)
        (period,) = _words(folder / "cpu.cfs_period_us") or ("100000",)
    return int(quota) / int(period) if int(quota) > 0 else math.inf


def _memory_limits(folder: Path) -> Iterator[int]:
    for name in ("memory.max", "memory.limit_in_bytes"):
        for word in _words(folder / name):
            if word != "max" and int(word) < _UNLIMITED_V1:
                yield int(word)


def _words(file: Path) -> list[str]:
    with suppress(OSError):
        return file.read_text(encoding="ascii").split()
    return []
