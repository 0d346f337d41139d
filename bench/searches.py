"""The rows of the search alone: features as networks make them of parts, in banks of the reference's sizes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import apart, random_network
from bench.plant import pictures
from bench.random_network import LAYER2, LAYER3, Network
from bench.table import Row, in_turn, milliseconds, row
from patchline import config
from patchline.banks import coreset
from patchline.devices import backbone, loading
from patchline.inspection import decode, preprocess, score
from patchline.inspection.search import distances, exact_search

_SEEN = 3  # images that are searched, one with a scratch
SAME = 1e-6  # relative: two rows may be equally near as far as float32 can tell

Features = NDArray[np.float32]
Work = Callable[[Features], object]


@dataclass(frozen=True)
class Size:
    """A network, from how many of its images a bank is chosen, and how many rows it gets."""

    network: Network
    images: int
    rows: int


SMALL, LARGE, DEEP = Size(LAYER2, 104, 1638), Size(LAYER2, 104, 16_384), Size(LAYER3, 40, 4480)


def main() -> None:
    """Print the rows of all sizes as JSON, one a line: for `apart`."""
    for size in (SMALL, LARGE, DEEP):
        for each in rows(size):
            print(each.model_dump_json())


def with_kernels(kernels: str) -> list[Row]:
    """The rows of all sizes where faiss and we multiply with those kernels of OpenBLAS."""
    printed = apart.answer("bench.searches", kernels=kernels).splitlines()
    found = map(Row.model_validate_json, printed)
    return [each.model_copy(update={"name": f"{each.name}, {kernels} kernels"}) for each in found]


def rows(size: Size) -> list[Row]:
    """Against faiss, each in one thread, and against float64: all neighbours, and what a score needs of them."""
    bank, images = banks(size, (size.rows,))
    name = f"search {images[0].shape[0]} x {images[0].shape[1]} in {size.rows}"
    own = exact_search.with_pruning(bank[0])
    return [
        _against_faiss(name, own.nearest, own, images),
        _against_faiss(f"{name}, for a score", lambda image: for_score(image, own), own, images),
        *_against_float64(name, own, images),
    ]


def noise() -> Row:
    """Random numbers, which have no few directions: faiss has to look at every row."""
    rng = np.random.default_rng(0)
    bank, image = (rng.standard_normal((count, 512)).astype(np.float32) for count in (1638, 784))
    own = exact_search.with_pruning(bank)
    return _against_faiss("search 784 x 512 in 1638 of noise", own.nearest, own, [image])


def banks(size: Size, rows: Sequence[int]) -> tuple[list[Features], list[Features]]:
    """Banks of so many rows, chosen from the patches of good parts, and the patches of parts they never saw.

    Returns:
        float32 [rows, dim] each; float32 [patches, dim] each.
    """
    with tempfile.TemporaryDirectory() as folder:
        random_network.write(Path(folder), size.network)
        loaded = loading.load(Path(folder), size.network.name, size.network.side, backbone.CPU, streams=1)
        found = [_extracted(loaded, image) for image in pictures(size.images * 10 // 9 + 10, "image/png")]
    good = [features for number, features in enumerate(found[:-_SEEN]) if number % 10 != 9][: size.images]
    candidates = np.concatenate(good)
    order = coreset.select(coreset.project(candidates, 0), max(rows), 0)  # a smaller one is the beginning of a larger
    return [candidates[np.sort(order[:count])] for count in rows], found[-_SEEN:]


def _extracted(loaded: backbone.Backbone, image: bytes) -> Features:
    rgb = decode.decode(image, "image/png", config.Images())
    patches: Features = loaded.extract(preprocess.prepare(rgb, loaded.side, loaded.side)[None])[0]
    return patches


def _against_faiss(name: str, ours: Work, own: exact_search.Search, images: list[Features]) -> Row:
    return in_turn(
        f"{name} : IndexFlatL2, one thread each",
        "ms",
        lambda: milliseconds(lambda: [ours(image) for image in images]) / len(images),
        lambda: milliseconds(lambda: [own.index.search(image, 1) for image in images]) / len(images),
    )


def _against_float64(name: str, own: exact_search.Search, images: list[Features]) -> list[Row]:
    same, errors = [], []
    for image in images:
        measured, neighbours = own.nearest(image)
        true = squared_distances(image, own.features)
        found, least = np.take_along_axis(true, neighbours[:, None], axis=1)[:, 0], true.min(axis=1)
        same.append((found <= least * (1 + SAME)).mean())
        decisive = np.sort(for_score(image, own)) / np.sort(least)[-score.TOP_PATCHES :]
        errors += [np.abs(measured / least - 1).max(), np.abs(decisive - 1).max()]
    return [
        row(f"{name}: as near as float64's neighbour : all", "share", float(np.mean(same)), 1.0),
        row(f"{name}: largest relative error : 1e-3", "share", float(np.max(errors)), 1e-3),
    ]


def for_score(image: Features, own: exact_search.Search) -> Features:
    """float32 [10]: what the score of an image is made of."""
    return distances.of(image, own).largest(score.TOP_PATCHES)


def squared_distances(image: Features, features: Features) -> NDArray[np.float64]:
    """float64 [patches, rows], of every patch to every row."""
    asked, known = image.astype(np.float64), features.astype(np.float64)
    squares: NDArray[np.float64] = (asked**2).sum(axis=1)[:, None] + (known**2).sum(axis=1) - 2 * asked @ known.T
    return squares


if __name__ == "__main__":
    main()
