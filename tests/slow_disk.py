"""Delays the disk syncs of a process by a time that a test sets."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest


class SlowDisk:
    """A delay of 0 at first. A process with `environment` loads a library, built in `folder`, that delays its syncs."""

    def __init__(self, folder):
        if shutil.which("gcc") is None:
            (pytest.fail if os.environ.get("CI") else pytest.skip)("a slow disk needs gcc")
        library, self._delay_file = folder / "slow_disk.so", folder / "slow_disk"
        source = Path(__file__).with_suffix(".c")
        subprocess.run(["gcc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, source], check=True)
        self.environment = {"LD_PRELOAD": str(library), "SLOW_DISK": str(self._delay_file)}
        self.set_delay(0)

    def attach_to(self, server):
        """Return a copy of the server whose syncs are delayed."""
        return replace(server, environment={**server.environment, **self.environment})

    def set_delay(self, seconds):
        """Set the delay of every sync, also of those in progress."""
        new = self._delay_file.with_suffix(".new")
        new.write_text(f"{seconds}")
        new.replace(self._delay_file)
