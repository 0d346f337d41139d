"""What a backbone is, and on which device it runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from patchline.devices.model_manifest import ModelManifest, Precision
from patchline.protocol.errors import SetupError

_DEVICE = re.compile(r"^(cpu|ascend)(?::(\d{1,2}))?$")


@dataclass(frozen=True, slots=True)
class Device:
    """`cpu`, `cpu:1`, `ascend:0`: a kind and the number of one of its kind."""

    kind: str
    number: int

    @classmethod
    def parse(cls, text: str) -> Device:
        """Raises SetupError when `text` is no device."""
        match = _DEVICE.match(text)
        if match is None:
            raise SetupError(f"device {text!r} is not one of cpu, cpu:0, cpu:1, ..., ascend:0, ascend:1, ...")
        return cls(match[1], int(match[2] or 0))

    def __str__(self) -> str:
        return f"{self.kind}:{self.number}"


CPU = Device("cpu", 0)


class Backbone(Protocol):
    """The network that makes patch features. Normalisation, layout and the 3x3 mean are inside of it."""

    @property
    def manifest(self) -> ModelManifest: ...

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches of one image."""
        ...

    @property
    def side(self) -> int:
        """Of its square input in pixels."""
        ...

    @property
    def precision(self) -> Precision:
        """What it computes in."""
        ...

    def extract(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [n, side, side, 3] RGB -> float32 [n, patches, dim]; safe to call from several threads at once.

        Raises:
            Retry: the device failed; the job may succeed elsewhere.
            DeviceLost: it failed too often; the process shall end.
        """
        ...

    def close(self) -> None:
        """Give the device back."""
        ...
