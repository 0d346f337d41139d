"""Checks of an imported index: it must be one model, of this network, and made from other images."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchline.banks import store
from patchline.inspection.search import exact_search
from patchline.protocol.errors import SetupError

Features = NDArray[np.float32]
PARAMETERS = "patchcore_params.pkl"
_ENSEMBLE = re.compile(r"Ensemble-(\d+)-(\d+)_")  # as patchcore-inspection names the members
_SAMPLE = 1000  # rows whose distances to the others are measured
_EQUAL = 0.01  # of the usual squared distance between rows; new images stay above 0.04, f32 and bf16 differ by less
_EQUAL_ROWS = 0.01  # of the bank
_BACKGROUND_IMAGES = 3  # images that have the same patch, such as a black border
_SAME_CHANNELS = 0.8  # correlation of the means of the channels: 0.93 to 0.99 with the same network and product
_FAR = 3.0  # squared distances, of those between rows: 0.6 to 0.8 with the same network and product


def find_index(source: Path) -> tuple[Path, Path]:
    """Return the index file of a file or folder, and the path of the parameters that belong to it.

    Raises:
        SetupError: it is a member of an ensemble.
    """
    members = sorted(source.glob(f"Ensemble-*_{store.INDEX_FILE}")) if source.is_dir() else [source]
    ensemble = _ENSEMBLE.match(members[0].name) if members else None
    if ensemble:
        raise SetupError(
            f"{members[0]}: is member {ensemble[1]} of an ensemble of {ensemble[2]}, whose scores are averaged over "
            "networks or layers; one member alone does not judge as the ensemble does: export one model"
        )
    path = source / store.INDEX_FILE if source.is_dir() else source
    prefix = path.name.removesuffix(store.INDEX_FILE) if path.name.endswith(store.INDEX_FILE) else ""
    return path, path.with_name(prefix + PARAMETERS)


class FeatureCheck:
    """Compares the patches of good images with the rows of a bank."""

    def __init__(self, bank: Features) -> None:
        self._bank = bank
        self._spacing = _median_spacing(bank)
        self._means: list[NDArray[np.float64]] = []
        self._medians: list[float] = []
        self._images_of_row: dict[int, set[Path]] = {}

    def distances(self, paths: Sequence[Path], features: Iterable[Features]) -> Iterator[Features]:
        """Yield the squared distances of the patches of each good image to the bank, float32 [patches].

        Args:
            paths: of the images.
            features: of each image, float32 [patches, dim].
        """
        search = exact_search.brute_force(self._bank)
        for path, patches in zip(paths, features, strict=True):
            distances, rows = search.nearest(patches)
            self._means.append(patches.mean(axis=0, dtype=np.float64))
            self._medians.append(float(np.median(distances)))
            for row in set(rows[distances <= _EQUAL * self._spacing].tolist()):
                self._images_of_row.setdefault(row, set()).add(path)
            yield distances

    def require_same_network(self, path: Path, backbone: str) -> None:
        """Check that the features of the images have the statistics of those in the bank.

        Raises:
            SetupError: they do not.
        """
        channels = np.corrcoef(np.mean(self._means, axis=0), self._bank.mean(axis=0, dtype=np.float64))[0, 1]
        distance = float(np.median(self._medians)) / self._spacing
        if channels < _SAME_CHANNELS or distance > _FAR:
            raise SetupError(
                f"{path}: was made with another network than {backbone}, other preprocessing, or another product: the "
                f"means of its channels correlate with those of the good images by {channels:.2f} (usual: 0.9 and "
                f"more), and these are {distance:.1f} times as far from it as its rows are from each other (usual: 0.8)"
            )

    def require_new_images(self, path: Path) -> None:
        """Check that the bank was not made from the images.

        Raises:
            SetupError: it was, so the images would score too low.
        """
        origins = [images for images in self._images_of_row.values() if len(images) < _BACKGROUND_IMAGES]
        if len(origins) >= max(2, _EQUAL_ROWS * len(self._bank)):
            images = set().union(*origins)
            raise SetupError(
                f"{path}: {len(origins)} of its {len(self._bank)} rows are patches of {len(images)} of the good "
                f"images, such as {min(images)}: it was made from them, and the threshold would be too low; give good "
                "images that it was not made from"
            )


def _median_spacing(bank: Features) -> float:
    """The median of the squared distances of rows to their nearest other row."""
    sample = np.unique(np.linspace(0, len(bank) - 1, min(_SAMPLE, len(bank)), dtype=int))
    lengths = (bank.astype(np.float64) ** 2).sum(axis=1)
    squared = lengths[sample, None] + lengths - 2 * (bank[sample] @ bank.T)
    squared[np.arange(len(sample)), sample] = np.inf
    nearest = squared.min(axis=1)
    return max(float(np.median(nearest)), float(np.finfo(np.float32).tiny)) if len(bank) > 1 else float(lengths.max())
