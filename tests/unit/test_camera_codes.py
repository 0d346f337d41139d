"""The id of a part from the code in its image."""

import sys

import cv2
import numpy as np
import pytest
import zxingcpp

from patchline import config
from patchline.camera.codes import OUTCOMES, CodeReader, NoCodeError
from patchline.config import BitDepth
from patchline.protocol.errors import SetupError

FORMATS = {"data_matrix": zxingcpp.BarcodeFormat.DataMatrix, "qr": zxingcpp.BarcodeFormat.QRCode}
DEPTH = BitDepth()


def symbol(text, kind="data_matrix", scale=5):
    return np.array(zxingcpp.create_barcode(text, FORMATS[kind]).to_image(scale=scale))


def picture(*symbols, shape=(600, 600), angle=0.0):
    """A grey part with symbols side by side, as an encoded image."""
    pixels = np.random.default_rng(0).integers(150, 180, shape).astype(np.uint8)
    left = 60
    for mark in symbols:
        height, width = mark.shape
        pixels[120 : 120 + height, left : left + width] = 30 + mark // 2
        left += width + 60
    turn = cv2.getRotationMatrix2D((shape[1] / 2, shape[0] / 2), angle, 1.0)
    pixels = cv2.warpAffine(pixels, turn, shape[::-1], borderValue=165)
    return encoded(pixels)


def encoded(pixels, suffix=".png"):
    return cv2.imencode(suffix, pixels)[1].tobytes(), "image/png" if suffix == ".png" else "image/jpeg"


class Reader:
    def __init__(self, required=False, depth=DEPTH):
        self.outcomes = []
        self.read = CodeReader(required, config.Images(), depth, self.outcomes.append).read


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("angle", [0, 7, 90])
def test_the_code_on_a_part_is_its_id(kind, angle):
    reader = Reader()
    assert reader.read(*picture(symbol("SN-0815:7", kind), angle=angle)) == "SN-0815:7"
    assert reader.outcomes == ["read"]


def test_a_code_is_read_from_a_jpeg_a_colour_image_and_one_of_12_bits():
    pixels = cv2.imdecode(np.frombuffer(picture(symbol("a1"))[0], np.uint8), cv2.IMREAD_GRAYSCALE)
    assert Reader().read(*encoded(pixels, ".jpg")) == "a1"
    assert Reader().read(*encoded(cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR))) == "a1"
    assert Reader(depth=BitDepth(12, "low")).read(*encoded(pixels.astype(np.uint16) << 4)) == "a1"


def test_the_same_code_twice_is_one_code():
    assert Reader().read(*picture(symbol("a1"), symbol("a1", "qr"))) == "a1"


@pytest.mark.parametrize(
    ("symbols", "outcome", "reason"),
    [
        ((), "none", "no Data Matrix and no QR code can be read"),
        ((symbol("a1"), symbol("a2")), "several", "there are 2 different codes: 'a1', 'a2'"),
        ((symbol("a b"),), "unfit", "the code 'a b' is no id of a part"),
        ((symbol("-a"),), "unfit", "the code '-a' is no id of a part"),
        ((symbol("x" * 129, scale=4),), "unfit", "is no id of a part"),
    ],
)
def test_a_part_without_exactly_one_code_that_is_an_id_keeps_its_own_or_has_no_image(symbols, outcome, reason):
    reader, strict = Reader(), Reader(required=True)
    image = picture(*symbols)
    assert reader.read(*image) is None
    with pytest.raises(NoCodeError, match=reason) as caught:
        strict.read(*image)
    assert (caught.value.cause, reader.outcomes, strict.outcomes) == ("no_code", [outcome], [outcome])
    assert outcome in OUTCOMES


def test_an_image_that_cannot_be_read_has_no_code():
    image, content_type = picture(symbol("a1"))
    reader = Reader()
    assert reader.read(image[: len(image) // 2], content_type) is None
    assert reader.outcomes == ["none"]


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "zxingcpp", None)
    with pytest.raises(SetupError, match=r"install patchline\[codes\]"):
        Reader()
