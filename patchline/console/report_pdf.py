"""A report as PDF. The only reportlab user.

The font is a file of Patchline, and what a report uses of it is embedded: Latin and Chinese texts look the same
everywhere, and nothing has to be installed.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from reportlab.graphics.shapes import Drawing, Line, Rect, String
from reportlab.lib.colors import HexColor
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import (
    CondPageBreak,
    Flowable,
    KeepTogether,
    Paragraph,
    SimpleDocTemplate,
    Spacer,
    Table,
    TableStyle,
)
from reportlab.platypus import Image as Picture

from patchline.console import report_document
from patchline.console.report_document import Bars, Document, Part, Section

Pictures = Mapping[tuple[str, str], bytes]
_FONT, _FILE = "Patchline", Path(__file__).parent / "fonts" / "report.ttf"
_MISSING = "□"  # for a character that the font does not have
_MARGIN, _WIDTH = 16 * mm, A4[0] - 32 * mm
_TEXT, _SOFT, _EDGE, _GREY = (HexColor(value) for value in (0x1B1F24, 0xEEF1F4, 0xB8C0C8, 0x4A5560))
_COLOURS = {
    kind: HexColor(value)
    for kind, value in (("pass", 0x2F9E4F), ("review", 0xE0A526), ("fail", 0xC8323A), ("other", 0x7B8794))
}
_SIZES = {"title": 18, "heading": 13, "part": 10, "text": 9, "cell": 7.5, "small": 7}
_PADDING, _WIDEST = 3, 0.62  # points at each side of a cell; the widest column, as a share of the page
_NOT_ALONE = 40 * mm  # a title needs this much room below it
_CHART_HEIGHT, _PICTURE_HEIGHT, _PARTS_IN_A_ROW = 42 * mm, 42 * mm, 2


def render(document: Document, pictures: Pictures) -> bytes:
    """Return a report as PDF, on pages of A4.

    Args:
        document: the report.
        pictures: JPEG or PNG files, by job and kind. Those that are missing are left out.
    """
    return _Renderer(document, pictures).render()


@functools.cache
def _known() -> frozenset[int]:
    """Register the font. Return the characters that it has."""
    font = TTFont(_FONT, _FILE)
    pdfmetrics.registerFont(font)
    return frozenset(font.face.charToGlyph)


class _Renderer:
    def __init__(self, document: Document, pictures: Pictures) -> None:
        self._document, self._pictures, self._known = document, pictures, _known()
        wrap = "CJK" if document.language == "zh" else None
        self._styles = {
            name: ParagraphStyle(
                name,
                fontName=_FONT,
                fontSize=size,
                leading=size * 1.35,
                textColor=_TEXT,
                wordWrap=wrap,
                spaceAfter=2,
            )
            for name, size in _SIZES.items()
        }
        self._right = ParagraphStyle("right", self._styles["cell"], alignment=2)

    def render(self) -> bytes:
        output = io.BytesIO()
        template = SimpleDocTemplate(
            output,
            pagesize=A4,
            **dict.fromkeys(("leftMargin", "rightMargin", "topMargin"), _MARGIN),
            bottomMargin=_MARGIN + 6 * mm,
            title=f"{self._document.title} – Patchline",
            creator="Patchline",
            lang=self._document.language,
        )
        foot = functools.partial(_Pages, title=self._clean(self._document.title), page=self._document.page)
        template.build(list(self._flowables()), canvasmaker=foot)
        return output.getvalue()

    def _flowables(self) -> Iterator[Flowable]:
        yield self._text(self._document.title, "title")
        yield Spacer(0, 3 * mm)
        facts = report_document.Table("", ("", ""), self._document.facts)
        yield self._grid(facts)
        for section in self._document.sections:
            yield from self._section(section)

    def _section(self, section: Section) -> Iterator[Flowable]:
        yield Spacer(0, 4 * mm)
        yield CondPageBreak(_NOT_ALONE)
        yield self._text(section.title, "heading")
        yield from (self._text(note, "text") for note in section.notes)
        if section.bars is not None:
            yield KeepTogether([self._chart(section.bars), *self._legend(section.bars)])
        for table in section.tables:
            yield Spacer(0, 2 * mm)
            yield self._grid(table)
        for start in range(0, len(section.parts), _PARTS_IN_A_ROW):
            yield Spacer(0, 2 * mm)
            yield self._row_of_parts(section.parts[start : start + _PARTS_IN_A_ROW])
        yield Spacer(0, 1 * mm)
        yield from (self._text(remark, "text") for remark in section.remarks)

    def _clean(self, text: str) -> str:
        return "".join(one if ord(one) in self._known else _MISSING for one in text)

    def _text(self, text: str, style: str) -> Paragraph:
        return Paragraph(escape(self._clean(text)), self._styles[style])

    def _grid(self, table: report_document.Table) -> Table:
        """A table; with a title and the names of its columns, which each page repeats, if it has a title."""
        rows = [table.columns, *table.rows] if table.title else list(table.rows)
        cells: list[list[Flowable | str]] = [
            [
                Paragraph(escape(self._clean(cell)), self._right if place in table.numbers else self._styles["cell"])
                for place, cell in enumerate(row)
            ]
            for row in rows
        ]
        head = 2 if table.title else 0
        if table.title:
            cells.insert(0, [self._text(table.title, "small"), *[""] * (len(table.columns) - 1)])
        commands: list[tuple[Any, ...]] = [
            ("LINEBELOW", (0, head // 2), (-1, -1), 0.4, _EDGE),
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
            ("LEFTPADDING", (0, 0), (-1, -1), _PADDING),
            ("RIGHTPADDING", (0, 0), (-1, -1), _PADDING),
            ("TOPPADDING", (0, 0), (-1, -1), 1.5),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 1.5),
        ]
        if head:
            commands += [("SPAN", (0, 0), (-1, 0)), ("BACKGROUND", (0, 1), (-1, 1), _SOFT)]
        return Table(cells, self._widths(rows), repeatRows=head, style=TableStyle(commands), hAlign="LEFT")

    def _widths(self, rows: list[tuple[str, ...]]) -> list[float]:
        """What each column needs on one line, made smaller together if that is more than the page has."""
        size = _SIZES["cell"]
        needed = [
            min(_WIDEST * _WIDTH, max(pdfmetrics.stringWidth(self._clean(row[place]), _FONT, size) for row in rows))
            + 2 * _PADDING
            + 1
            for place in range(len(rows[0]))
        ]
        return [width * min(1.0, _WIDTH / sum(needed)) for width in needed]

    def _chart(self, bars: Bars) -> Drawing:
        drawing = Drawing(_WIDTH, _CHART_HEIGHT + 12)
        drawing.add(Rect(0, 12, _WIDTH, _CHART_HEIGHT, fillColor=_SOFT, strokeColor=None))
        for one in bars.rectangles(_WIDTH, _CHART_HEIGHT):
            bottom = 12 + _CHART_HEIGHT - one.y - one.height
            drawing.add(Rect(one.x, bottom, one.width, one.height, fillColor=_COLOURS[one.kind], strokeColor=None))
        drawing.add(Line(0, 12, _WIDTH, 12, strokeColor=_GREY, strokeWidth=0.5))
        for x, label in bars.ticks(_WIDTH):
            drawing.add(String(x, 2, label, fontName=_FONT, fontSize=_SIZES["small"], fillColor=_TEXT))
        return drawing

    def _legend(self, bars: Bars) -> Iterator[Paragraph]:
        named = (
            f'<font color="{_COLOURS[kind].hexval()}">■</font> {escape(self._clean(name))}'
            for name, kind in zip(bars.series, bars.kinds, strict=True)
        )
        yield Paragraph(f"{escape(self._clean(bars.title))}: {' '.join(named)}", self._styles["small"])

    def _row_of_parts(self, parts: tuple[Part, ...]) -> Table:
        width = _WIDTH / _PARTS_IN_A_ROW
        cells: list[list[Flowable]] = [self._part(part, width - 4 * _PADDING) for part in parts]
        cells += [[Spacer(0, 0)]] * (_PARTS_IN_A_ROW - len(cells))
        commands: list[tuple[Any, ...]] = [("VALIGN", (0, 0), (-1, -1), "TOP")]
        commands += [("BACKGROUND", (place, 0), (place, 0), _SOFT) for place in range(len(parts))]
        commands += [("INNERGRID", (0, 0), (-1, -1), 4, HexColor(0xFFFFFF))]
        return Table([cells], [width] * _PARTS_IN_A_ROW, style=TableStyle(commands))

    def _part(self, part: Part, width: float) -> list[Flowable]:
        shown = [body for one in part.images if (body := self._pictures.get((one.job_id, one.kind))) is not None]
        found: list[Flowable] = [self._text(part.part_id, "part")]
        if shown:
            pictures = [_picture(body, width / len(shown) - 4) for body in shown]
            row = Table([pictures], [width / len(shown)] * len(shown))
            row.setStyle(TableStyle([("LEFTPADDING", (0, 0), (-1, -1), 0), ("RIGHTPADDING", (0, 0), (-1, -1), 0)]))
            found.append(row)
        return [*found, *(self._text(line, "small") for line in part.lines)]


def _picture(body: bytes, width: float) -> Picture:
    across, down = ImageReader(io.BytesIO(body)).getSize()
    scale = min(width / across, _PICTURE_HEIGHT / down)
    return Picture(io.BytesIO(body), across * scale, down * scale)


class _Pages(Canvas):  # type: ignore[misc]  # reportlab has no types
    """Writes the foot of each page once their number is known."""

    def __init__(self, *args: Any, title: str, page: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._title, self._text = title, page
        self._finished: list[dict[str, Any]] = []

    def showPage(self) -> None:  # noqa: N802 - reportlab's name
        """Keep the page."""
        self._finished.append(dict(self.__dict__))
        self._startPage()

    def save(self) -> None:
        """Write all pages."""
        for page in self._finished:
            self.__dict__.update(page)
            self.setFont(_FONT, _SIZES["small"])
            self.setFillColor(_GREY)
            self.drawString(_MARGIN, _MARGIN, f"Patchline – {self._title}")
            place = self._text % {"number": self._pageNumber, "all": len(self._finished)}
            self.drawRightString(A4[0] - _MARGIN, _MARGIN, place)
            super().showPage()
        super().save()
