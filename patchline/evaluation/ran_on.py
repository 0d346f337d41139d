"""What computed the features of an evaluation: the device, the file of the model, and the precision."""

from __future__ import annotations

from patchline.devices import backbone
from patchline.protocol import messages


class RanOn(messages.Frozen):
    """Part of every report, because the same bank has other figures on another device or in another precision.

    Attributes:
        model: the name of the backbone.
        model_sha256: of the file that ran: the `.om` on the Ascend.
    """

    device: str
    model: str
    model_sha256: str
    precision: str

    @classmethod
    def of(cls, network: backbone.Backbone, device: backbone.Device) -> RanOn:
        """Describe a loaded backbone."""
        return cls(
            device=str(device),
            model=network.manifest.name,
            model_sha256=network.model_sha256,
            precision=network.precision,
        )

    def __str__(self) -> str:
        return f"{self.model} ({self.model_sha256[:12]}) in {self.precision} on {self.device}"
