"""`python -m bench.approximate`: time and accuracy of faiss's IVF and HNSW indices against our exact search."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import chain

import faiss
import numpy as np
from numpy.typing import NDArray

from bench import searches
from bench.searches import DEEP, SHALLOW, Features
from bench.table import median_ms
from patchline.inspection import score
from patchline.inspection.search import exact_search
from patchline.runtime import terminal

_LISTS_VISITED = (2, 8, 32)
_CANDIDATES = (16, 32, 64)
_NEIGHBOURS, _BUILD_CANDIDATES = 16, 200
_COLUMNS = ("index", "ms", "of ours for a score", "true neighbours", "largest error of a score")


def main() -> None:
    """Measure and print a table for each bank."""
    for source in (SHALLOW, DEEP):
        banks, images = searches.build_banks(source)
        for bank in banks:
            title = f"{len(images[0])} x {bank.shape[1]} in {len(bank)}, one thread"
            terminal.table(title, _COLUMNS, _rows(exact_search.with_pruning(bank), images))


def _rows(search: exact_search.Search, images: list[Features]) -> Iterator[tuple[object, ...]]:
    score_ms = _ms_per_image(lambda image: searches.top_distances(image, search), images)
    yield "ours, for a score", score_ms, 1.0, "all", 0.0
    all_ms = _ms_per_image(search.nearest, images)
    yield "ours, of all patches", all_ms, all_ms / score_ms, "all", 0.0
    flat = exact_search.flat_index(search.centred)
    for name, index in chain([("IndexFlatL2", flat)], _approximate(search.centred)):
        index_ms = _ms_per_image(partial(_neighbours, search, index), images)
        yield name, index_ms, index_ms / score_ms, *_accuracy(search, index, images)


def _approximate(features: Features) -> Iterator[tuple[str, faiss.Index]]:
    """Yield each index with several settings. The same index is changed between settings: use it before the next."""
    lists = int(4 * len(features) ** 0.5)
    ivf = faiss.IndexIVFFlat(faiss.IndexFlatL2(features.shape[1]), features.shape[1], lists)
    ivf.train(features)
    ivf.add(features)
    for visited in _LISTS_VISITED:
        ivf.nprobe = visited
        yield f"IVF, {visited} of {lists} lists", ivf
    hnsw = faiss.IndexHNSWFlat(features.shape[1], _NEIGHBOURS)
    hnsw.hnsw.efConstruction = _BUILD_CANDIDATES
    hnsw.add(features)
    for candidates in _CANDIDATES:
        hnsw.hnsw.efSearch = candidates
        yield f"HNSW, {candidates} candidates", hnsw


def _accuracy(search: exact_search.Search, index: faiss.Index, images: list[Features]) -> tuple[float, float]:
    """Return the share of patches with their true neighbour, and the largest relative error of a score."""
    correct, errors = [], []
    for image in images:
        exact = search.nearest(image)[0]
        approximate = ((image - search.features[_neighbours(search, index, image)]) ** 2).sum(axis=1)
        correct.append(approximate <= exact * (1 + searches.TIE_TOLERANCE))
        errors.append(abs(score.image_scores(approximate).topk10 / score.image_scores(exact).topk10 - 1))
    return float(np.mean(correct)), max(errors)


def _neighbours(search: exact_search.Search, index: faiss.Index, image: Features) -> NDArray[np.int64]:
    rows: NDArray[np.int64] = index.search(image - search.mean, 1)[1][:, 0]
    return rows


def _ms_per_image(work: searches.Work, images: list[Features]) -> float:
    return median_ms(lambda: [work(image) for image in images], repeats=7) / len(images)


if __name__ == "__main__":
    main()
