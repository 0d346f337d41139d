"""`python -m tools.wheels`: check that all runtime dependencies have wheels for x86_64 and aarch64."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from patchline.runtime import terminal

_MACHINES = ("x86_64", "aarch64")
_PLATFORMS = ("manylinux2014", "manylinux_2_28", "manylinux_2_31", "manylinux_2_35")  # Debian 12 has glibc 2.36


def main() -> int:
    """Resolve the dependencies with `pip install --dry-run` for each machine type.

    Returns:
        The exit code: 1 if a package has no wheel, 0 otherwise.
    """
    with Path("pyproject.toml").open("rb") as file:
        requirements = tomllib.load(file)["project"]["dependencies"]
    rows = [[machine, *_resolve(machine, requirements)] for machine in _MACHINES]
    terminal.table("wheels of the runtime dependencies", ("machine", "packages", "missing"), rows)
    return int(any(row[2] for row in rows))


def _resolve(machine: str, requirements: list[str]) -> tuple[int, str]:
    """Return the number of packages that pip would install, and its error message if there is one."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--only-binary=:all:", "--python-version", "3.11", "--target", folder, "--report", str(report)]
        command += [argument for tag in _PLATFORMS for argument in ("--platform", f"{tag}_{machine}")]
        result = subprocess.run([*command, *requirements], capture_output=True, text=True, check=False)
        if result.returncode != 0:
            return 0, result.stderr.strip().splitlines()[-1]
        return len(json.loads(report.read_text(encoding="utf-8"))["install"]), ""


if __name__ == "__main__":
    sys.exit(main())
