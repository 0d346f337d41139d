"""Reads the code on a part, a Data Matrix or a QR code, from its image. It becomes the id of the part."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import structlog
from pydantic import TypeAdapter, ValidationError

from patchline import config
from patchline.camera.base import CameraError
from patchline.camera.metrics import CodeMetrics
from patchline.config import BitDepth, Images
from patchline.inspection import decode
from patchline.protocol.errors import SetupError, Unusable
from patchline.protocol.messages import Identifier
from patchline.runtime.metrics import Registry

_log = structlog.get_logger(__name__)
_IDENTIFIER: TypeAdapter[str] = TypeAdapter(Identifier)
OUTCOMES = ("read", "none", "several", "unfit")


class NoCodeError(CameraError):
    """A part must have a code, and its image shows none that can be its id."""

    cause = "no_code"


ReadId = Callable[[bytes, str], str | None]


class CodeReader:
    """Finds the id of a part in its image.

    Args:
        required: an image without exactly one code that can be an id is none. Otherwise the part keeps its id.
        limits: on bytes and pixels of images.
        depth: of the recipe of the category.
        count: called with the outcome of each image, one of `OUTCOMES`.

    Raises:
        SetupError: zxing-cpp is not installed.
    """

    def __init__(self, required: bool, limits: Images, depth: BitDepth, count: Callable[[str], None]) -> None:
        try:
            import zxingcpp
        except ModuleNotFoundError as error:
            raise SetupError(f"camera.part_code needs the package {error.name}; install patchline[codes]") from error
        self._library = zxingcpp
        self._required, self._limits, self._depth, self._count = required, limits, depth, count

    def read(self, image: bytes, content_type: str) -> str | None:
        """Return the id of the part that an encoded image shows. None: the part keeps the id of its trigger.

        Raises:
            NoCodeError: there is no such code, and it is required.
        """
        outcome, found = self._find(image, content_type)
        self._count(outcome)
        if outcome == "read":
            return found
        if self._required:
            raise NoCodeError(f"{found}, and camera.part_code is required")
        _log.warning("a part keeps the id of its trigger", reason=found)
        return None

    def _find(self, image: bytes, content_type: str) -> tuple[str, str]:
        """Return the outcome, and the id or what is wrong."""
        try:
            pixels = decode.decode(image, content_type, self._limits, self._depth)
        except Unusable as error:
            return "none", f"the image cannot be read: {error.detail}"
        formats = [self._library.BarcodeFormat.DataMatrix, self._library.BarcodeFormat.QRCode]
        # The order of the channels does not matter: only their weights in the grey picture differ.
        texts = sorted({code.text for code in self._library.read_barcodes(pixels, formats=formats)})
        if not texts:
            return "none", "no Data Matrix and no QR code can be read"
        if len(texts) > 1:
            return "several", f"there are {len(texts)} different codes: {', '.join(map(repr, texts))}"[:300]
        try:
            return "read", _IDENTIFIER.validate_python(texts[0])
        except ValidationError:
            return "unfit", f"the code {texts[0][:200]!r} is no id of a part: letters, digits and ._:-, 128 at most"


def readers(settings: config.Config, line: str, categories: Iterable[str], registry: Registry) -> dict[str, ReadId]:
    """Return, for each category, what finds the id of a part in its image: see `CodeReader.read`.

    Raises:
        SetupError: zxing-cpp is needed and not installed.
    """
    wanted, names = settings.camera.rules(line).part_code, list(categories)
    if wanted == "none":
        return dict.fromkeys(names, lambda *_: None)
    counted = CodeMetrics(line, names, OUTCOMES, registry)

    def reader(category: str) -> ReadId:
        count = partial(counted.count, category)
        return CodeReader(wanted == "required", settings.images, settings.category(category).depth, count).read

    return {category: reader(category) for category in names}
