"""Sees that the servers of the demo and the tests are there; installs Debian's packages where it may."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import subprocess
import sys

from patchline.services import private_servers


def main(also: list[str]) -> int:
    """Returns 0 also where they cannot be installed: what needs them will say so.

    Args:
        also: further packages of Debian.
    """
    packages = private_servers.missing_packages() + [package for package in also if not _installed(package)]
    if ctypes.util.find_library("GL") is None:
        packages.append("libgl1")  # opencv-python links it, without ever opening a window here
    if not packages:
        return 0
    command = f"apt-get install {' '.join(packages)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print(f"patchline: missing {', '.join(packages)}. On Debian or Ubuntu, as root: {command}", file=sys.stderr)
        return 0
    print(f"patchline: {command}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # install, start nothing
    subprocess.run(["apt-get", "update", "-qq"], check=True, env=environment)
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    subprocess.run(install, check=True, env=environment, stdout=subprocess.DEVNULL)
    return 0


def _installed(package: str) -> bool:
    if shutil.which("dpkg-query") is None:
        return False
    asked = ["dpkg-query", "--show", "--showformat=${Status}", package]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout == "install ok installed"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
