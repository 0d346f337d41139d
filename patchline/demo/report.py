"""The report of the demo: figures by category, a summary file, heat maps and one self-contained HTML page."""

from __future__ import annotations

import base64
import html
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

from patchline import config
from patchline.banks import serving
from patchline.devices import backbone
from patchline.evaluation import evaluate, metrics
from patchline.inspection import picture
from patchline.protocol.messages import Decision, Thresholds, Verdict
from patchline.runtime import terminal

Summary = dict[str, Any]
_EXAMPLES = 6

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Patchline: solar cells</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1c2430; max-width: 1000px; margin: 2.5rem auto; padding: 0 1rem }}
h1 {{ font-size: 1.6rem }} h2 {{ font-size: 1.15rem; margin-top: 2.2rem }}
table {{ border-collapse: collapse; margin: 1rem 0 }}
th, td {{ padding: .35rem .9rem; border-bottom: 1px solid #dde3ea; text-align: right }}
th:first-child, td:first-child {{ text-align: left }}
img {{ max-width: 100% }} p.note {{ color: #5a6675 }}
</style>
<h1>Patchline on {images} solar cells</h1>
<p>Each image travelled from a camera process through RabbitMQ to a worker; its verdict was confirmed by RabbitMQ and
acted on by the gate. All figures come from these verdicts.</p>
{line_table}
{category_table}
{sections}
<p class="note">Images: elpv-dataset, CC BY-NC-SA 4.0. All heat maps share one colour scale. White contours mark the
threshold; areas far below it stay grey.</p>
</html>
"""


def by_category(settings: config.Config, verdicts: list[Verdict], images: Path) -> Summary:
    """Return AUROC, thresholds and counts of decisions by category, from the published verdicts."""
    categories: Summary = {}
    for name in settings.categories:
        selected = [verdict for verdict in verdicts if verdict.category == name]
        defective = {path.stem for path in (images / name / "test" / "defect").iterdir()}
        judged = [verdict for verdict in selected if verdict.scores is not None]
        bad = [verdict for verdict in judged if verdict.part_id in defective]
        good = [verdict for verdict in judged if verdict.part_id not in defective]
        categories[name] = {
            "auroc": round(metrics.auroc(_scores(good, "max"), _scores(bad, "max")), 4),
            "auroc_topk10": round(metrics.auroc(_scores(good, "topk10"), _scores(bad, "topk10")), 4),
            "threshold": _thresholds(judged).fail,
            "review_threshold": _thresholds(judged).review,
            "decisions": _decisions(selected),
            "good": _decisions([verdict for verdict in selected if verdict.part_id not in defective]),
            "defect": _decisions([verdict for verdict in selected if verdict.part_id in defective]),
        }
    return categories


def write(settings: config.Config, verdicts: list[Verdict], summary: Summary, out: Path) -> list[Path]:
    """Write `report.html`, `summary.json` and a sheet of heat maps for each category. Return their paths."""
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    inspectors = serving.load(settings, list(settings.categories), backbone.CPU, streams=1)
    sheets, sections = [], []
    for name, inspector in inspectors.items():
        scored = [verdict for verdict in verdicts if verdict.category == name and verdict.score is not None]
        tiles = [
            evaluate.heat_map_tile(inspector, kind, path)
            for kind, path in _select_examples(scored, out / "images" / name / "test")
        ]
        sheet = picture.encode_png(picture.contact_sheet(tiles))
        sheets.append(out / f"heat-maps-{name}.png")
        sheets[-1].write_bytes(sheet)
        histogram = _histogram(scored, out / "images" / name / "test" / "defect", inspector.thresholds)
        sections.append(
            f"<h2>{name}</h2>{_img(histogram)}"
            "<p>The defects with the highest scores, the defects with the lowest scores, and good cells:</p>"
            + _img(sheet)
        )
    tables = {
        "line_table": _html_table(*_line_table(summary)),
        "category_table": _html_table(*_category_table(summary)),
    }
    text = _PAGE.format(images=summary["images"], sections="\n".join(sections), **tables)
    (out / "report.html").write_text(text, encoding="utf-8")
    return [out / "report.html", out / "summary.json", *sheets]


def show(summary: Summary, paths: list[Path]) -> None:
    """Print the summary as tables, and the paths of the report."""
    terminal.table("line", *_line_table(summary))
    terminal.table("categories, from the verdicts that RabbitMQ delivered", *_category_table(summary))
    print("\n".join(map(str, paths)))


def _select_examples(verdicts: list[Verdict], test: Path) -> list[tuple[str, Path]]:
    """Return the defects with the highest and lowest scores, and good cells with scores around the median."""
    ranked = {
        kind: sorted(
            (verdict for verdict in verdicts if (test / kind / f"{verdict.part_id}.png").exists()),
            key=lambda verdict: -(verdict.score or 0.0),
        )
        for kind in ("defect", "good")
    }
    middle = len(ranked["good"]) // 2
    examples = [("defect", verdict) for verdict in ranked["defect"][:_EXAMPLES] + ranked["defect"][-_EXAMPLES:]]
    examples += [("good", verdict) for verdict in ranked["good"][middle : middle + _EXAMPLES]]
    return [(kind, test / kind / f"{verdict.part_id}.png") for kind, verdict in examples]


def _histogram(verdicts: list[Verdict], defects: Path, thresholds: Thresholds) -> bytes:
    defective = {path.stem for path in defects.iterdir()}
    scores = {
        "good": [verdict.score or 0.0 for verdict in verdicts if verdict.part_id not in defective],
        "defect": [verdict.score or 0.0 for verdict in verdicts if verdict.part_id in defective],
    }
    bins = np.geomspace(min(map(min, scores.values())), max(map(max, scores.values())), 60)
    figure, axes = plt.subplots(figsize=(9, 2.6), layout="constrained")
    for (kind, values), colour in zip(scores.items(), ("#2c7fb8", "#d95f0e"), strict=True):
        axes.hist(values, bins, alpha=0.65, label=f"{kind} ({len(values)})", color=colour)
    axes.axvline(thresholds.review, color="#777777", linestyle="--", label="review")
    axes.axvline(thresholds.fail, color="black", label="fail")
    axes.set(xscale="log", xlabel="score: mean of the 10 largest squared distances", ylabel="cells")
    axes.legend(frameon=False)
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=110)
    plt.close(figure)
    return target.getvalue()


def _line_table(summary: Summary) -> tuple[list[str], list[list[object]]]:
    rows = [[key.replace("_", " "), value] for key, value in summary.items() if key != "categories"]
    return ["", "value"], rows


def _category_table(summary: Summary) -> tuple[list[str], list[list[object]]]:
    columns = ["category", "AUROC max", "AUROC topk10", "threshold", "good pass/review/fail", "defect pass/review/fail"]
    rows: list[list[object]] = []
    for name, category in summary["categories"].items():
        counts = [
            "/".join(str(category[kind][decision]) for decision in ("pass", "review", "fail"))
            for kind in ("good", "defect")
        ]
        figures = [f"{category[key]:.4f}" for key in ("auroc", "auroc_topk10")]
        rows.append([name, *figures, f"{category['threshold']:.1f}", *counts])
    return columns, rows


def _html_table(columns: list[str], rows: list[list[object]]) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _img(png: bytes) -> str:
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _scores(verdicts: list[Verdict], kind: str) -> Any:
    return np.array([getattr(verdict.scores, kind) for verdict in verdicts], np.float32)


def _decisions(verdicts: list[Verdict]) -> dict[str, int]:
    counts = Counter(str(verdict.decision) for verdict in verdicts)
    return {str(decision): counts[decision] for decision in Decision}


def _thresholds(verdicts: list[Verdict]) -> Thresholds:
    distinct = {verdict.thresholds for verdict in verdicts if verdict.thresholds is not None}
    (thresholds,) = distinct  # the memory bank does not change during the run
    return thresholds
