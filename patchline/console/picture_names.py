"""Names for the files of pictures that people upload, whatever their browsers call them."""

from __future__ import annotations

import re
from pathlib import Path

from patchline.protocol import image_files

_LONGEST = 80
SUFFIXES = {kind: suffix for suffix, kind in reversed(image_files.CONTENT_TYPES.items())}  # by content type


def stem(name: str) -> str:
    """Return a name without its folder and suffix, of ASCII letters, digits, `.`, `_` and `-`. It is never hidden."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(name.replace("\\", "/")).stem)[-_LONGEST:]
    return plain.strip("._~-") or "picture"
