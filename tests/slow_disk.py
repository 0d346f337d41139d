"""A disk that takes as long to write through as a test says, for whatever process has its environment."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest


class SlowDisk:
    """Fast at first. `folder` gets the library that stands between a process and its syncs."""

    def __init__(self, folder):
        if shutil.which("gcc") is None:
            (pytest.fail if os.environ.get("CI") else pytest.skip)("to slow a disk down takes gcc")
        library, self._told = folder / "slow_disk.so", folder / "slow_disk"
        source = Path(__file__).with_suffix(".c")
        subprocess.run(["gcc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, source], check=True)
        self.environment = {"LD_PRELOAD": str(library), "SLOW_DISK": str(self._told)}
        self.takes(0)

    def under(self, server):
        """A server, with this disk."""
        return replace(server, environment={**server.environment, **self.environment})

    def takes(self, seconds):
        """For each sync from now on, and for those under way."""
        new = self._told.with_suffix(".new")
        new.write_text(f"{seconds}")
        new.replace(self._told)
