#!/bin/sh
# opencv-python-headless 5.0.0.93: a colour TIFF of 16 bits whose channels are stored one after the other
# (PlanarConfiguration 2) is read without an error, with the right shape and type, and wrong pixels. The same picture in
# 8 bits, or with interleaved channels, is read correctly.
#
# Seen, with IMREAD_UNCHANGED, the share of values that differ from the picture that was written:
#   interleaved 16 bits 0.000, planar 8 bits 0.000, planar 16 bits above 0.99
#
# Patchline refuses such files if the category has a bit depth, which is when it reads files unchanged.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
    opencv-python-headless==5.0.0.93 tifffile==2026.3.3 numpy==2.4.6
cd "$folder"
env/bin/python - <<'PYTHON'
import sys

import cv2
import numpy as np
import tifffile

picture = np.random.default_rng(0).integers(0, 65536, (64, 80, 3), dtype=np.uint16)  # rows, columns, RGB


def share_of_wrong_values(pixels, planar):
    stored = np.moveaxis(pixels, 2, 0) if planar else pixels
    config = "separate" if planar else "contig"
    tifffile.imwrite("picture.tif", np.ascontiguousarray(stored), photometric="rgb", planarconfig=config)
    bgr = cv2.imread("picture.tif", cv2.IMREAD_UNCHANGED)
    assert bgr.shape == pixels.shape and bgr.dtype == pixels.dtype
    return float(np.mean(bgr[..., ::-1] != pixels))


small = (picture >> 8).astype(np.uint8)
interleaved, planar8, planar16 = (
    share_of_wrong_values(*case) for case in ((picture, False), (small, True), (picture, True))
)
print(f"interleaved 16 bits {interleaved:.3f}, planar 8 bits {planar8:.3f}, planar 16 bits {planar16:.3f}")
sys.exit(0 if interleaved == planar8 == 0 and planar16 > 0.99 else 1)
PYTHON
