"""What computes scores here, as a verdict says it. A replay compares it with what is there later."""

from __future__ import annotations

import functools
import hashlib
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from patchline.devices.backbone import Backbone
from patchline.inspection.search import exact_search
from patchline.protocol.messages import JudgedWith

_CODE = ("inspection", "devices")  # rooms whose code decides about a score
_PACKAGES = ("openvino", "faiss-cpu", "opencv-python", "opencv-python-headless", "numpy")
_DIGITS = 12


def of(network: Backbone, kind: str) -> JudgedWith:
    """Return what judges with a loaded network on a kind of device."""
    return JudgedWith(
        model_sha256=network.model_sha256,
        precision=network.precision,
        processor=processor(kind),
        build=build(),
        packages=packages(),
    )


@functools.cache
def processor(kind: str) -> str:
    """Return the processor of a kind of device, and the kernels of the search: a virtual machine has a vague name."""
    name = kind
    if kind == "cpu":
        from patchline.devices.openvino_backbone import cpu_name  # a machine with an Ascend only may not have OpenVINO

        name = cpu_name()
    return f"{name} ({', '.join(exact_search.blas_kernels())})"


@functools.cache
def build() -> str:
    """Return the version of Patchline, and the first digits of a digest of its code that judges."""
    code = hashlib.sha256()
    for room in _CODE:
        folder = Path(__file__).parents[1] / room
        for file in sorted(folder.rglob("*.py")):
            code.update(f"{room}/{file.relative_to(folder)}".encode() + b"\0" + file.read_bytes() + b"\0")
    return f"{metadata.version('patchline')}+{code.hexdigest()[:_DIGITS]}"


@functools.cache
def packages() -> str:
    """Return the packages that compute, with their versions."""
    found = []
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return ", ".join(found)
