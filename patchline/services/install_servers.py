"""Installs the Debian packages of the servers that the demo and the tests need, if run as root."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import subprocess
import sys

from patchline.services import private_servers


def main(extra_packages: list[str]) -> int:
    """Install what is missing. Return 0 even if that is not possible: the demo and the tests report what they miss.

    Args:
        extra_packages: further Debian packages to install.
    """
    packages = private_servers.missing_packages()
    packages += [package for package in extra_packages if not _is_installed(package)]
    if ctypes.util.find_library("GL") is None:
        packages.append("libgl1")  # opencv-python links it; no window is ever opened
    if not packages:
        return 0
    command = f"apt-get install {' '.join(packages)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print(f"patchline: missing {', '.join(packages)}. On Debian or Ubuntu, as root: {command}", file=sys.stderr)
        return 0
    print(f"patchline: {command}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # do not start the servers
    subprocess.run(["apt-get", "update", "-qq"], check=True, env=environment)
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    subprocess.run(install, check=True, env=environment, stdout=subprocess.DEVNULL)
    return 0


def _is_installed(package: str) -> bool:
    if shutil.which("dpkg-query") is None:
        return False
    command = ["dpkg-query", "--show", "--showformat=${Status}", package]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout == "install ok installed"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
