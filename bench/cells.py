"""`python -m bench.cells`: AUROC of the last `make demo`, and the search on its images against faiss and float64."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import rows, searches
from bench.table import Row, median_ms, print_rows, ratio_row
from patchline import config
from patchline.inspection import score, verdict
from patchline.inspection.inspector import Inspector
from patchline.inspection.search import exact_search
from patchline.protocol import image_files

_DEMO = Path("out/demo")
_AUROC = {"solar_cell_mono": 0.9646, "solar_cell_poly": 0.9160}  # topk10, at the first measurement


@dataclass(frozen=True)
class Cell:
    """The measurements of one image.

    Attributes:
        score_ms: duration of our search for its score.
        all_ms: duration of our search of all its patches.
        faiss_ms: duration of faiss's search.
        same_decision: True if float64 leads to the same decision.
        error: relative error of its score against float64.
    """

    score_ms: float
    all_ms: float
    faiss_ms: float
    same_decision: bool
    error: float


def main() -> None:
    """Measure and print a table."""
    print_rows("solar cells", demo_rows())


def demo_rows() -> list[Row]:
    """Return the rows of the last demo; none if there was no demo."""
    if not (_DEMO / "summary.json").is_file():
        return []
    settings = config.load(_DEMO / "config.yaml")
    results = json.loads((_DEMO / "summary.json").read_text(encoding="utf-8"))["categories"]
    measured = []
    for category, first in _AUROC.items():
        auroc = results[category]["auroc_topk10"]
        measured.append(ratio_row(f"{category}: AUROC of the demo : as first measured", "", auroc, first))
        measured += _search_rows(rows.load_inspector(settings, category), category)
    return measured


def _search_rows(inspector: Inspector, name: str) -> list[Row]:
    cells = [_measure_cell(inspector, path) for path in image_files.find([_DEMO / "images" / name / "test"])]
    score_ms, all_ms, faiss_ms = np.mean(
        [(cell.score_ms, cell.all_ms, cell.faiss_ms) for cell in cells], axis=0
    ).tolist()
    same_decisions = sum(cell.same_decision for cell in cells)
    largest_error = max(cell.error for cell in cells)
    return [
        ratio_row(f"{name}: search for the score : IndexFlatL2, one thread each", "ms", score_ms, faiss_ms),
        ratio_row(f"{name}: search of all patches : IndexFlatL2, one thread each", "ms", all_ms, faiss_ms),
        ratio_row(f"{name}: decisions as by float64 : all", "images", same_decisions, len(cells)),
        ratio_row(f"{name}: largest relative error of a score : 1e-3", "share", largest_error, 1e-3),
    ]


def _measure_cell(inspector: Inspector, path: Path) -> Cell:
    patches = inspector.features(path.read_bytes(), image_files.content_type(path))
    search = inspector.bank.search
    index = exact_search.flat_index(search.centred)
    top = score.image_scores(searches.top_distances(patches, search))
    top_exact = score.image_scores(searches.squared_distances(patches, search.features).min(axis=1))
    ours, exact = (score.decisive_score(scores, inspector.category.score) for scores in (top, top_exact))
    return Cell(
        score_ms=median_ms(lambda: searches.top_distances(patches, search), repeats=1),
        all_ms=median_ms(lambda: search.nearest(patches), repeats=1),
        faiss_ms=median_ms(lambda: index.search(patches, 1), repeats=1),
        same_decision=verdict.decide(ours, top.max, inspector.thresholds)
        is verdict.decide(exact, top_exact.max, inspector.thresholds),
        error=abs(ours / exact - 1),
    )


if __name__ == "__main__":
    main()
