"""The rows of the search alone, in banks of the reference application's sizes, with features from real networks."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import isolated, random_network
from bench.plant import has_scratch, pictures
from bench.random_network import LAYER2, LAYER3, Network
from bench.table import Row, measure_in_turn, median_ms, ratio_row
from patchline import config
from patchline.banks import coreset
from patchline.devices import backbone, loading
from patchline.inspection import decode, preprocess, score
from patchline.inspection.search import exact_search
from patchline.inspection.search.lazy_distances import LazyDistances

_CORES = len(os.sched_getaffinity(0))
_REPEATS = 5  # each takes more than a second with the larger bank
_QUERY_IMAGES = 3  # one of them with a scratch
TIE_TOLERANCE = 1e-6  # relative: float32 cannot tell which of two rows is nearer

Features = NDArray[np.float32]
Work = Callable[[Features], object]


@dataclass(frozen=True)
class Source:
    """What banks are made of: a network, the number of images that rows are chosen from, and the rows of each bank."""

    network: Network
    images: int
    row_counts: tuple[int, ...]


SHALLOW, DEEP = Source(LAYER2, 104, (1638, 16_384)), Source(LAYER3, 40, (4480,))


def main() -> None:
    """Print the rows of all sizes as JSON, one per line, for `bench.isolated`."""
    for source in (SHALLOW, DEEP):
        for row in rows(source):
            print(row.model_dump_json())


def rows_with_kernels(kernels: str) -> list[Row]:
    """Measure the rows of all sizes with the same OpenBLAS kernels for faiss and for numpy."""
    printed = isolated.run_module("bench.searches", kernels=kernels).splitlines()
    measured = map(Row.model_validate_json, printed)
    return [row.model_copy(update={"name": f"{row.name}, {kernels} kernels"}) for row in measured]


def rows(source: Source) -> list[Row]:
    """Compare the search of all patches and the search for a score with faiss, on one thread each, and with float64."""
    banks, images = build_banks(source)
    return [row for bank in banks for row in _rows(bank, images)]


def _rows(bank: Features, images: list[Features]) -> list[Row]:
    name = f"search {images[0].shape[0]} x {images[0].shape[1]} in {len(bank)}"
    search = exact_search.with_pruning(bank)
    return [
        _against_faiss(name, search.nearest, search, images),
        _against_faiss(f"{name}, for a score", lambda image: top_distances(image, search), search, images),
        *_against_float64(name, search, images),
    ]


def noise() -> Row:
    """Compare the search with faiss on random numbers, where lower bounds exclude no row."""
    rng = np.random.default_rng(0)
    bank, image = (rng.standard_normal((count, 512)).astype(np.float32) for count in (1638, 784))
    search = exact_search.with_pruning(bank)
    return _against_faiss("search 784 x 512 in 1638 of noise", search.nearest, search, [image])


def build_banks(source: Source) -> tuple[list[Features], list[Features]]:
    """Build banks from the patches of good images, and query images that are not in the banks.

    Returns:
        The banks, float32 [rows, dim], and the patches of each query image, float32 [patches, dim].
    """
    files = pictures(source.images * 10 // 9 + 10, "image/png")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(_CORES) as threads:
        random_network.write(Path(folder), source.network)
        loaded = loading.load(Path(folder), source.network.name, source.network.side, backbone.CPU, streams=_CORES)
        extracted = list(threads.map(partial(_extract, loaded), files))
    bank_images, query_images = extracted[:-_QUERY_IMAGES], extracted[-_QUERY_IMAGES:]
    good_images = [patches for number, patches in enumerate(bank_images) if not has_scratch(number)]
    candidates = np.concatenate(good_images[: source.images])
    # A prefix of the order is a smaller coreset.
    order = coreset.select(coreset.project(candidates, 0), max(source.row_counts), 0)
    return [candidates[np.sort(order[:count])] for count in source.row_counts], query_images


def _extract(loaded: backbone.Backbone, image: bytes) -> Features:
    rgb = decode.decode(image, "image/png", config.Images())
    patches: Features = loaded.extract(preprocess.prepare(rgb, loaded.side, loaded.side)[None])[0]
    return patches


def _against_faiss(name: str, ours: Work, search: exact_search.Search, images: list[Features]) -> Row:
    index = exact_search.flat_index(search.centred)
    return measure_in_turn(
        f"{name} : IndexFlatL2, one thread each",
        "ms",
        lambda: median_ms(lambda: [ours(image) for image in images], _REPEATS) / len(images),
        lambda: median_ms(lambda: [index.search(image, 1) for image in images], _REPEATS) / len(images),
    )


def _against_float64(name: str, search: exact_search.Search, images: list[Features]) -> list[Row]:
    correct, errors = [], []
    for image in images:
        measured, neighbours = search.nearest(image)
        exact = squared_distances(image, search.features)
        at_neighbour = np.take_along_axis(exact, neighbours[:, None], axis=1)[:, 0]
        minimum = exact.min(axis=1)
        correct.append((at_neighbour <= minimum * (1 + TIE_TOLERANCE)).mean())
        top_ratios = np.sort(top_distances(image, search)) / np.sort(minimum)[-score.TOP_PATCHES :]
        errors += [np.abs(measured / minimum - 1).max(), np.abs(top_ratios - 1).max()]
    return [
        ratio_row(f"{name}: as near as float64's neighbour : all", "share", float(np.mean(correct)), 1.0),
        ratio_row(f"{name}: largest relative error : 1e-3", "share", float(np.max(errors)), 1e-3),
    ]


def top_distances(image: Features, search: exact_search.Search) -> Features:
    """Return the largest distances of an image, which its score is made of: float32 [10]."""
    return LazyDistances.start(search, image).largest(score.TOP_PATCHES)


def squared_distances(image: Features, features: Features) -> NDArray[np.float64]:
    """Return the squared distance of every patch to every row: float64 [patches, rows]."""
    queries, rows = image.astype(np.float64), features.astype(np.float64)
    squared: NDArray[np.float64] = (queries**2).sum(axis=1)[:, None] + (rows**2).sum(axis=1) - 2 * queries @ rows.T
    return squared


if __name__ == "__main__":
    main()
