#!/bin/sh
# opencv-python-headless 5.0.0.93: a BMP with 32-bit pixels and BI_BITFIELDS says which bits are red, green and blue.
# imread uses that if the header has 56 bytes or more. Of a header of 40 or 52 bytes it takes the masks for granted:
# the picture is read without an error, and with wrong colours. A line that judges it judges another part.
#
# Seen: of a red picture whose red is the highest byte OpenCV makes a red one with a header of 108 bytes, and a black
# one with a header of 40 bytes. Pillow 13.0.0 makes both red.
#
# Patchline refuses 32-bit pixels in another order than blue, green, red (patchline/inspection/image_header.py).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check opencv-python-headless==5.0.0.93 pillow==13.0.0
"$folder/env/bin/python" - "$folder" <<'PYTHON'
import struct
import sys
from pathlib import Path

import cv2
from PIL import Image

side, masks = 4, (0xFF00_0000, 0x00FF_0000, 0x0000_FF00)
pixels = struct.pack("<I", masks[0]) * side * side
seen = {}
for size in (108, 40):
    header = struct.pack("<IiiHHIIiiII", size, side, side, 1, 32, 3, len(pixels), 2835, 2835, 0, 0)
    header += struct.pack("<3I", *masks)
    header += bytes(max(0, size - len(header)))  # no alpha mask; no colour space
    start = 14 + len(header)
    path = Path(sys.argv[1], f"{size}.bmp")
    path.write_bytes(struct.pack("<2sIHHI", b"BM", start + len(pixels), 0, 0, start) + header + pixels)
    with Image.open(path) as image:
        pillow = image.convert("RGB").getpixel((0, 0))
    opencv = tuple(int(value) for value in cv2.imread(str(path))[0, 0, ::-1])
    print(f"header of {size} bytes: red, green, blue are {pillow} in Pillow, {opencv} in OpenCV")
    seen[size] = pillow, opencv
red = (255, 0, 0)
sys.exit(0 if seen == {108: (red, red), 40: (red, (0, 0, 0))} else 1)
PYTHON
