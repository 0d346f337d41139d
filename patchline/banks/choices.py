"""What a person decides about good images that are outliers: use them all the same, or leave them out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from patchline.banks import good_images
from patchline.protocol.errors import SetupError


@dataclass(frozen=True)
class Choices:
    """The decisions about images, which are named by their paths relative to the folder of good images.

    Attributes:
        accepted: names of images that are used although they are outliers.
        left_out: names of images that are not used.
        out: the folder for the contact sheet.
    """

    accepted: Collection[str] = ()
    left_out: Collection[str] = ()
    out: Path = Path("out")

    def apply(self, folder: Path, good: good_images.GoodImages) -> good_images.GoodImages:
        """Leave the images out.

        Raises:
            SetupError: a name is not that of a good image that is used, or is both accepted and left out.
        """
        for name in set(self.left_out) & set(self.accepted):
            raise SetupError(f"{folder / name}: is named by both --accept and --leave-out; name it by one of the two")
        numbers = {good_images.relative_name(path, folder): number for number, path in enumerate(good.paths)}
        reasons = {good_images.relative_name(image.path, folder): image.reason for image in good.left_out}
        for name in [*self.left_out, *self.accepted]:
            if name not in numbers and reasons.get(name) != good_images.CHOSEN:
                why = f"is left out already ({reasons[name]})" if name in reasons else "is not there"
                raise SetupError(f"{folder / name}: {why}; name an image that is used, relative to {folder}")
        if not set(numbers) - set(self.left_out):
            raise SetupError(f"{folder}: all images are left out")
        readable = {numbers[name] for name in self.left_out if name in numbers}
        return good.without(readable, good_images.CHOSEN) if readable else good


NO_CHOICES = Choices()
