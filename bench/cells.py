"""`python -m bench.cells`, after `make demo`: the search on its solar cells, against faiss and against float64."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import rows, searches
from bench.table import Row, milliseconds, row
from inspection import config, decode, image_files, preprocess, score, verdict
from inspection.inspector import Inspector
from tools import terminal

_DEMO = Path("out/demo")
_CATEGORIES = ("solar_cell_mono", "solar_cell_poly")


@dataclass(frozen=True)
class Cell:
    """One image.

    Milliseconds of our search for its score, of ours for all patches, and of faiss's; whether float64 decides the same,
    and how scores differ.
    """

    score_ms: float
    all_ms: float
    faiss_ms: float
    same_decision: bool
    error: float


def main() -> None:
    """Measure, and print a table."""
    settings = config.load(_DEMO / "config.yaml")
    found = [each for name in _CATEGORIES for each in _rows(rows.inspector(settings, name), name)]
    cells = [[each.name, f"{each.ours:.3g}", f"{each.other:.3g}", f"{each.ratio:.3g}", each.unit] for each in found]
    terminal.table("solar cells", ("measured : against", "ours", "other", "ratio", "unit"), cells)


def _rows(inspector: Inspector, name: str) -> list[Row]:
    cells = [_cell(inspector, path) for path in image_files.find([_DEMO / "images" / name / "test"])]
    kinds = ("score_ms", "all_ms", "faiss_ms")
    for_score, of_all, faiss = (float(np.mean([getattr(each, kind) for each in cells])) for kind in kinds)
    return [
        row(f"{name}: search for the score : IndexFlatL2, one thread each", "ms", for_score, faiss),
        row(f"{name}: search of all patches : IndexFlatL2, one thread each", "ms", of_all, faiss),
        row(f"{name}: decisions as by float64 : all", "images", sum(each.same_decision for each in cells), len(cells)),
        row(f"{name}: largest relative error of a score : 1e-3", "share", max(each.error for each in cells), 1e-3),
    ]


def _cell(inspector: Inspector, path: Path) -> Cell:
    rgb = decode.decode(path.read_bytes(), image_files.content_type(path), inspector.limits)
    patches = inspector.backbone.extract(
        preprocess.prepare(rgb, inspector.category.resize, inspector.backbone.side)[None]
    )[0]
    own = inspector.bank.search
    ours = _headline(inspector, searches.for_score(patches, own))
    exact = _headline(inspector, searches.squared_distances(patches, own.features).min(axis=1))
    return Cell(
        score_ms=milliseconds(lambda: searches.for_score(patches, own), times=1),
        all_ms=milliseconds(lambda: own.nearest(patches), times=1),
        faiss_ms=milliseconds(lambda: own.index.search(patches, 1), times=1),
        same_decision=verdict.decide(ours, inspector.thresholds) is verdict.decide(exact, inspector.thresholds),
        error=abs(ours / exact - 1),
    )


def _headline(inspector: Inspector, distances: NDArray[np.floating]) -> float:
    return score.headline(score.image_scores(distances), inspector.category.score)


if __name__ == "__main__":
    main()
