"""`python -m bench.approximate`: what faiss's IVF and HNSW indices find, and in what time, against our exact search."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import chain

import faiss
import numpy as np
from numpy.typing import NDArray

from bench import searches
from bench.searches import DEEP, LARGE, SMALL, Features
from bench.table import milliseconds
from patchline.inspection import score
from patchline.inspection.search import exact_search
from patchline.runtime import terminal

_LISTS_VISITED = (2, 8, 32)
_CANDIDATES = (16, 32, 64)
_NEIGHBOURS, _CANDIDATES_AT_BUILD = 16, 200
_COLUMNS = ("index", "ms", "of ours for a score", "true neighbours", "largest error of a score")


def main() -> None:
    """Measure, and print a table for each bank."""
    for size in (SMALL, LARGE, DEEP):
        (bank,), images = searches.banks(size, (size.rows,))
        own = exact_search.with_pruning(bank)
        title = f"{len(images[0])} x {bank.shape[1]} in {size.rows}, one thread"
        terminal.table(title, _COLUMNS, _rows(own, images))


def _rows(own: exact_search.Search, images: list[Features]) -> Iterator[tuple[object, ...]]:
    for_score = _milliseconds(lambda image: searches.for_score(image, own), images)
    yield "ours, for a score", for_score, 1.0, "all", 0.0
    of_all = _milliseconds(own.nearest, images)
    yield "ours, of all patches", of_all, of_all / for_score, "all", 0.0
    for name, index in chain([("IndexFlatL2", own.index)], _approximate(own.features - own.mean)):
        took = _milliseconds(partial(_found, own, index), images)
        yield name, took, took / for_score, *_quality(own, index, images)


def _approximate(features: Features) -> Iterator[tuple[str, faiss.Index]]:
    """Each index with several settings, one after the other."""
    lists = int(4 * len(features) ** 0.5)
    ivf = faiss.IndexIVFFlat(faiss.IndexFlatL2(features.shape[1]), features.shape[1], lists)
    ivf.train(features)
    ivf.add(features)
    for visited in _LISTS_VISITED:
        ivf.nprobe = visited
        yield f"IVF, {visited} of {lists} lists", ivf
    hnsw = faiss.IndexHNSWFlat(features.shape[1], _NEIGHBOURS)
    hnsw.hnsw.efConstruction = _CANDIDATES_AT_BUILD
    hnsw.add(features)
    for candidates in _CANDIDATES:
        hnsw.hnsw.efSearch = candidates
        yield f"HNSW, {candidates} candidates", hnsw


def _quality(own: exact_search.Search, index: faiss.Index, images: list[Features]) -> tuple[float, float]:
    """The share of patches that get their true neighbour, and the largest relative error of a score."""
    true, errors = [], []
    for image in images:
        least = own.nearest(image)[0]
        found = ((image - own.features[_found(own, index, image)]) ** 2).sum(axis=1)
        true.append(found <= least * (1 + searches.SAME))
        errors.append(abs(score.image_scores(found).topk10 / score.image_scores(least).topk10 - 1))
    return float(np.mean(true)), max(errors)


def _found(own: exact_search.Search, index: faiss.Index, image: Features) -> NDArray[np.int64]:
    rows: NDArray[np.int64] = index.search(image - own.mean, 1)[1][:, 0]
    return rows


def _milliseconds(work: searches.Work, images: list[Features]) -> float:
    return milliseconds(lambda: [work(image) for image in images], times=7) / len(images)


if __name__ == "__main__":
    main()
