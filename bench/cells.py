"""`python -m bench.cells`, after `make demo`: its AUROC, and the search on its cells against faiss and float64."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import rows, searches
from bench.table import Row, milliseconds, row, show
from patchline import config
from patchline.inspection import decode, preprocess, score, verdict
from patchline.inspection.inspector import Inspector
from patchline.protocol import image_files

_DEMO = Path("out/demo")
_AUROC = {"solar_cell_mono": 0.9646, "solar_cell_poly": 0.9160}  # topk10, as first measured


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
    show("solar cells", of_demo())


def of_demo() -> list[Row]:
    """Of the demo that ran last; none where none did."""
    if not (_DEMO / "summary.json").is_file():
        return []
    settings = config.load(_DEMO / "config.yaml")
    judged = json.loads((_DEMO / "summary.json").read_text(encoding="utf-8"))["categories"]
    found = []
    for name, first in _AUROC.items():
        found.append(row(f"{name}: AUROC of the demo : as first measured", "", judged[name]["auroc_topk10"], first))
        found += _searched(rows.inspector(settings, name), name)
    return found


def _searched(inspector: Inspector, name: str) -> list[Row]:
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
    return score.decisive_score(score.image_scores(distances), inspector.category.score)


if __name__ == "__main__":
    main()
