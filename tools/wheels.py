"""Sees that everything the line needs at run time has wheels for x86_64 and aarch64: no host needs a compiler."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from patchline.runtime import terminal

_MACHINES = ("x86_64", "aarch64")
_BASES = ("manylinux2014", "manylinux_2_28", "manylinux_2_31", "manylinux_2_35")  # Debian 12 has glibc 2.36


def main() -> int:
    """Ask pip, which installs nothing; 1 where a package has no wheel."""
    with Path("pyproject.toml").open("rb") as file:
        wanted = tomllib.load(file)["project"]["dependencies"]
    rows = [[machine, *_resolved(machine, wanted)] for machine in _MACHINES]
    terminal.table("packages of the line, as wheels", ("machine", "packages", "missing"), rows)
    return int(any(row[2] for row in rows))


def _resolved(machine: str, wanted: list[str]) -> tuple[int, str]:
    """How many packages pip would install, or what it says is missing."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--only-binary=:all:", "--python-version", "3.11", "--target", folder, "--report", str(report)]
        command += [word for base in _BASES for word in ("--platform", f"{base}_{machine}")]
        result = subprocess.run([*command, *wanted], capture_output=True, text=True, check=False)
        if result.returncode != 0:
            return 0, result.stderr.strip().splitlines()[-1]
        return len(json.loads(report.read_text(encoding="utf-8"))["install"]), ""


if __name__ == "__main__":
    sys.exit(main())
