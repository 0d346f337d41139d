"""The outlines of the regions of a part, as a picture that lies over its own."""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree import ElementTree

from patchline.protocol.messages import Region

_SVG = "http://www.w3.org/2000/svg"
_STROKES = (("#ffffff", "4"), ("#a4161a", "2"))  # seen on every ground
_LARGEST_TEXT = 1 / 24  # of the longer side


def draw(regions: Iterable[Region], width: int, height: int) -> bytes:
    """Return an SVG of a size in pixels with the outline and the number of each region."""
    root = ElementTree.Element("svg", xmlns=_SVG, viewBox=f"0 0 {width} {height}", width=f"{width}", height=f"{height}")
    size = max(width, height) * _LARGEST_TEXT
    for number, region in enumerate(regions, 1):
        box = {name: str(getattr(region, name)) for name in ("x", "y", "width", "height")}
        for colour, thickness in _STROKES:
            stroke = {"stroke": colour, "stroke-width": thickness, "vector-effect": "non-scaling-stroke"}
            ElementTree.SubElement(root, "rect", box | {"fill": "none"} | stroke)
        above = region.y - size * 0.3 if region.y > size * 1.3 else region.y + region.height + size
        place = {"x": f"{min(region.x, width - size):.1f}", "y": f"{min(above, height - 1):.1f}"}
        font = {"font-size": f"{size:.1f}", "font-family": "sans-serif", "font-weight": "bold", "fill": "#a4161a"}
        halo = {"stroke": "#ffffff", "stroke-width": f"{size / 6:.1f}", "paint-order": "stroke"}
        ElementTree.SubElement(root, "text", place | font | halo).text = str(number)
    return ElementTree.tostring(root)
