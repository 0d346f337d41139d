"""`python -m tools.fonts SOURCE`: make the font of the PDFs from WenQuanYi Micro Hei (Debian: fonts-wqy-microhei).

It keeps Latin letters, punctuation, and the 6,763 Chinese characters of GB 2312, without hints: a quarter of the font.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

TARGET = Path("patchline/console/fonts/report.ttf")
_LATIN = [*range(0x20, 0x7F), *range(0xA0, 0x180)]
_PUNCTUATION = [*range(0x2010, 0x2027), 0x20AC, 0x2212, 0x2264, 0x2265, *range(0x3000, 0x3020), *range(0xFF00, 0xFF60)]
_ROWS, _PLACES = range(0xA1, 0xF8), range(0xA1, 0xFF)  # of GB 2312


def characters() -> set[int]:
    """Return the characters to keep."""
    pairs = (bytes((row, place)).decode("gb2312", "ignore") for row in _ROWS for place in _PLACES)
    return {*_LATIN, *_PUNCTUATION, *(ord(one) for one in pairs if len(one) == 1)}


def main() -> int:
    """Write the font. Return the exit code."""
    if len(sys.argv) != 2:
        print("name the file of the font, such as /usr/share/fonts/truetype/wqy/wqy-microhei.ttc", file=sys.stderr)
        return 2
    font = TTFont(sys.argv[1], fontNumber=0)
    options = subset.Options(hinting=False, layout_features=[], name_IDs=["*"], notdef_outline=True, glyph_names=False)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=characters())
    subsetter.subset(font)
    font.save(TARGET)
    print(f"{TARGET}: {TARGET.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
