"""Measurements in a process of their own: a BLAS chooses its kernels once, as it is loaded."""

from __future__ import annotations

import os
import subprocess
import sys


def answer(module: str, *arguments: str, kernels: str | None) -> str:
    """What `python -m module` prints.

    Args:
        module: of this package.
        arguments: its own.
        kernels: of OpenBLAS, such as SkylakeX, for all of its products; those that each package chooses where None.
    """
    told = {} if kernels is None else {"OPENBLAS_CORETYPE": kernels}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, env=os.environ | told, stdout=subprocess.PIPE, text=True, check=True).stdout
