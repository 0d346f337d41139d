"""The interface of a backbone, and the names of devices."""

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
    """A kind and a number, such as `cpu:1` or `ascend:0`; `cpu` is `cpu:0`."""

    kind: str
    number: int

    @classmethod
    def parse(cls, text: str) -> Device:
        """Parse a device.

        Raises:
            SetupError: `text` is no device.
        """
        match = _DEVICE.match(text)
        if match is None:
            raise SetupError(f"device {text!r} is not one of cpu, cpu:0, cpu:1, ..., ascend:0, ascend:1, ...")
        return cls(match[1], int(match[2] or 0))

    def __str__(self) -> str:
        return f"{self.kind}:{self.number}"


CPU = Device("cpu", 0)


class Backbone(Protocol):
    """A network that extracts patch features. It contains the normalisation, the layout and the 3x3 mean."""

    @property
    def manifest(self) -> ModelManifest: ...

    @property
    def model_sha256(self) -> str:
        """The digest of the file that computes the features: the `.om` on the Ascend."""
        ...

    @property
    def source_sha256(self) -> str | None:
        """The digest of the backbone that an `.om` was compiled from. None if nobody knows it, and on the CPU."""
        ...

    @property
    def grid(self) -> tuple[int, int]:
        """The rows and columns of patches of one image."""
        ...

    @property
    def side(self) -> int:
        """The side of the square input in pixels."""
        ...

    @property
    def precision(self) -> Precision:
        """The precision of the computation."""
        ...

    def extract(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Extract the features of images. Several threads may call this at the same time.

        Args:
            images: uint8 [n, side, side, 3], RGB.

        Returns:
            float32 [n, patches, dim].

        Raises:
            Retry: the device failed; the job may succeed elsewhere.
            DeviceLostError: the device failed too often, or cannot be used any more; the process must end.
        """
        ...

    def close(self) -> None:
        """Release the device."""
        ...
