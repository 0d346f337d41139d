"""The report of an evaluation as one HTML file, with everything inside."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template

import numpy as np

from patchline.evaluation import neighbours, report, seeds
from patchline.evaluation.report import JudgedImage, Report
from patchline.inspection import picture
from patchline.inspection.inspector import Inspector
from patchline.protocol.messages import Decision

_WIDTH, _HEIGHT, _BINS = 900, 160, 60  # of the drawing of the scores
_COLOURS = {"good": "#2c7fb8", "defects": "#d95f0e"}

_PAGE = Template("""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>$category: how good the judgement is</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2430; max-width: 1000px; margin: 2.5rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .3rem .9rem; border-bottom: 1px solid #dde3ea; text-align: right }
th:first-child, td:first-child { text-align: left }
figure { display: inline-block; margin: 0 1rem 1.2rem 0; vertical-align: top }
figure img { max-width: 300px; max-height: 300px; margin-right: 6px }
figcaption, p.note { color: #5a6675 } svg { width: 100% }
</style>
<h1>$category: how good the judgement is</h1>
<p>$summary</p>
<p class="note">Memory bank $bank. $images images in the layout of $layout: $good good, $defects defective.</p>
<h2>Figures</h2>
$figures
<p class="note">Intervals of 95 %: exact for shares, DeLong's for AUROC, resampled images for the others; none if all
resamples agree. Pixel figures compare maps of $side x $side pixels; a pixel is defective if a mask marks any pixel that
it stands for.</p>
$seeds
<h2>By kind of defect</h2>
$kinds
<h2>Scores</h2>
$scores
<h2>The good images with the highest scores</h2>
$good_mistakes
<h2>The defects with the lowest scores</h2>
$defect_mistakes
<p class="note">Heat maps have one colour scale; white contours and red boxes mark what is above the threshold. Beside
each picture is the good one with the patch that is nearest to the hottest patch, both in green. $origins</p>
<h2>What was not used</h2>
$notes
</html>
""")


def make(
    inspector: Inspector, bank_folder: Path, result: Report, images: list[JudgedImage], mistakes: list[JudgedImage]
) -> str:
    """Draw the page.

    Args:
        inspector: of the category.
        bank_folder: of its memory bank.
        result: the figures.
        images: all images.
        mistakes: the images to show with their heat maps.
    """
    comparer = neighbours.Neighbours.load(inspector, bank_folder)
    tiles = {
        good: "".join(_figure(inspector, comparer, image) for image in mistakes if image.is_good is good)
        for good in (True, False)
    }
    rows = [(label, figure.value, figure.low, figure.high) for label, figure in report.figures(result)]
    return _PAGE.substitute(
        category=html.escape(result.category),
        summary=html.escape(result.summary),
        bank=html.escape(f"{result.memory_bank}, {result.ran_on}"),
        images=result.images,
        layout=html.escape(result.layout),
        good=result.good_images,
        defects=result.defects,
        side=result.map_side,
        figures=_table(("", "value", "from", "to"), rows),
        seeds=_seeds_section(result),
        kinds=_kinds_table(result),
        scores=_draw_scores(result, images),
        good_mistakes=tiles[True],
        defect_mistakes=tiles[False],
        origins=html.escape(comparer.note),
        notes="<ul>" + "".join(f"<li>{html.escape(_printable(note))}</li>" for note in result.notes) + "</ul>"
        if result.notes
        else "<p>Everything was used.</p>",
    )


def _figure(inspector: Inspector, comparer: neighbours.Neighbours, image: JudgedImage) -> str:
    pair = comparer.compare(image.path)
    pictures = "".join(_img(drawn) for drawn in pair.pictures)
    of_threshold = report.of_threshold(image.score, inspector.thresholds)
    caption = f"{image.kind}/{image.path.name}: {image.decision}, {of_threshold}"
    lines = [caption] if pair.caption is None else [caption, pair.caption]
    text = "<br>".join(html.escape(_printable(line)) for line in lines)
    return f"<figure>{pictures}<figcaption>{text}</figcaption></figure>"


def _seeds_section(result: Report) -> str:
    if result.seeds is None:
        return ""
    note = "The banks keep other patches of the same good images. A difference smaller than this deviation is luck."
    table = _table(("", *seeds.COLUMNS[1:]), result.seeds.rows())
    return f'<h2>{report.seeds_title(result.seeds)}</h2>\n{table}\n<p class="note">{note}</p>'


def _kinds_table(result: Report) -> str:
    has_spro = result.pixel is not None and result.pixel.au_spro is not None
    columns = ["", "images", *Decision, "AUROC", "from", "to", "missed", "from", "to", "pixel AUROC", "AUPRO"]
    good = result.decisions["good"]
    rows: list[list[object]] = [["good", result.good_images, *(good[decision] for decision in Decision)]]
    for kind, figures in result.kinds.items():
        pixel, missed, auroc = figures.pixel, figures.missed, figures.auroc
        row = [_printable(kind), figures.images, *(result.decisions[kind][decision] for decision in Decision)]
        row += [auroc.value, auroc.low, auroc.high, missed.value, missed.low, missed.high]
        row += [None, None] if pixel is None else [pixel.auroc.value, pixel.aupro.value]
        if has_spro:
            row.append(None if pixel is None or pixel.au_spro is None else pixel.au_spro.value)
        rows.append(row)
    return _table([*columns, "AU-sPRO"] if has_spro else columns, rows)


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{_cell(value)}</td>' for value in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else html.escape(str(value))


def _draw_scores(result: Report, images: list[JudgedImage]) -> str:
    """Histograms of the scores of good images, upwards, and of defects, downwards, on a logarithmic axis."""
    scores = {
        "good": np.array([image.score for image in images if image.is_good]),
        "defects": np.array([image.score for image in images if not image.is_good]),
    }
    smallest = max(min(values.min() for values in scores.values()), 1e-9)
    edges = np.geomspace(smallest, max(values.max() for values in scores.values()) * 1.001 + 1e-9, _BINS + 1)
    middle, step, parts = _HEIGHT / 2, _WIDTH / _BINS, []
    for name, sign in (("good", -1), ("defects", 1)):
        shares = np.histogram(np.maximum(scores[name], smallest), edges)[0] / scores[name].size
        for number, share in enumerate(shares / max(shares.max(), 1e-9)):
            height = share * (middle - 12)
            top = middle - height if sign < 0 else middle
            parts.append(
                f'<rect x="{number * step:.1f}" y="{top:.1f}" width="{step - 1:.1f}" height="{height:.1f}" '
                f'fill="{_COLOURS[name]}"/>'
            )
    limits = result.thresholds
    lines = {"review": limits.review} if limits.trial else {"review": limits.review, "fail": limits.fail}
    for name, value in lines.items():
        x = _WIDTH * np.log(value / edges[0]) / np.log(edges[-1] / edges[0])
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{_HEIGHT}" stroke="#1c2430"/>')
        parts.append(f'<text x="{x + 3:.1f}" y="10" font-size="11">{name}</text>')
    legend = "Good images upwards, defects downwards; scores rise to the right, on a logarithmic axis."
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}">{"".join(parts)}</svg><p class="note">{legend}</p>'


def _img(drawn: picture.Picture) -> str:
    data = base64.b64encode(picture.encode_jpeg(drawn)).decode()
    return f'<img alt="" src="data:image/jpeg;base64,{data}">'


def _printable(text: str) -> str:
    """A text without the half characters that stand for bytes of a file name that is not UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")
