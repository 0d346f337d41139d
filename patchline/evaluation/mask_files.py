"""Which file is the mask of which image."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from patchline.protocol import image_files
from patchline.protocol.errors import SetupError

_SUFFIX = "_mask"  # as MVTec names masks


class MaskFolder:
    """The masks of one kind of defect, in the subfolders of the images or in one folder.

    The mask of `<stem>.png` is `<stem>_mask` or `<stem>`, with the suffix of any image in small or capital letters, or
    a folder `<stem>` with a file for each defect.
    """

    def __init__(self, truth: Path, images: Path) -> None:
        self.truth, self.images = truth, images
        self._unused: set[Path] = set()
        self._by_name: dict[tuple[Path, str], list[Path]] = defaultdict(list)
        for path in sorted(truth.rglob("*")) if truth.is_dir() else []:
            if path.is_file() and image_files.has_image_suffix(path.name) and not image_files.is_left_out(path.name):
                self._unused.add(path)
                self._by_name[path.parent.relative_to(truth), path.stem].append(path)

    def match(self, images: list[Path], notes: list[str]) -> dict[Path, tuple[Path, ...]]:
        """The masks of each image; empty if there is no mask at all.

        Args:
            images: of this kind.
            notes: gets a sentence about masks that belong to no image.

        Raises:
            SetupError: some images have no mask, or a mask may belong to several images or an image to several masks.
        """
        if not self._unused:
            return {}
        matched = {image: self._find(image) for image in images}
        without = [image.name for image in images if not matched[image]]
        if without:
            raise SetupError(f"{self.truth}: {len(without)} masks are missing, such as for {without[0]}")
        _refuse_shared(matched)
        self._unused -= {mask for masks in matched.values() for mask in masks}
        if self._unused:
            notes.append(f"{self.truth}: {len(self._unused)} masks without an image, such as {min(self._unused).name}")
        return matched

    def _find(self, image: Path) -> tuple[Path, ...]:
        """The masks of an image: in the same subfolder, or else in the folder of the kind."""
        subfolder = image.parent.relative_to(self.images)
        for folder in dict.fromkeys((subfolder, Path())):
            for stem in (f"{image.stem}{_SUFFIX}", image.stem):
                masks = self._by_name.get((folder, stem), [])
                if len(masks) > 1:
                    names = ", ".join(mask.name for mask in masks)
                    raise SetupError(f"{self.truth / folder}: {names}: several masks for {image.name}; keep one")
                if masks:
                    return tuple(masks)
            several = [
                mask for (parent, _), masks in self._by_name.items() if parent == folder / image.stem for mask in masks
            ]
            if several:
                return tuple(several)
        return ()


def _refuse_shared(matched: dict[Path, tuple[Path, ...]]) -> None:
    owners: dict[Path, Path] = {}
    for image, masks in matched.items():
        for mask in masks:
            if mask in owners:
                raise SetupError(
                    f"{mask}: is it the mask of {owners[mask]} or of {image}? put masks into the same subfolders"
                )
            owners[mask] = image
