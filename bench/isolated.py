"""Measurements in separate processes: OpenBLAS chooses its kernels once, when it is loaded."""

from __future__ import annotations

import os
import subprocess
import sys


def run_module(module: str, *arguments: str, kernels: str | None) -> str:
    """Run `python -m module` and return its standard output.

    Args:
        module: a module of this package.
        arguments: command-line arguments of the module.
        kernels: OpenBLAS kernels for all packages, such as SkylakeX. If None, each package chooses its own.

    Raises:
        subprocess.CalledProcessError: the module failed.
    """
    environment = {} if kernels is None else {"OPENBLAS_CORETYPE": kernels}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True).stdout
