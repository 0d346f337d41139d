"""How bright images are, and those of the memory bank."""

import cv2
import numpy as np
import pytest

from patchline import config
from patchline.camera import exposure
from patchline.camera.exposure import ExposureMeter
from patchline.camera.metrics import ExposureMetrics
from patchline.config import BitDepth
from patchline.runtime.metrics import Registry

LIMITS, DEPTH = config.Images(), BitDepth()
LABELS = {"line": "l", "category": "c"}


def image(level, white=0, dtype=np.uint8):
    pixels = np.full((20, 20), level, dtype)
    pixels.flat[:white] = np.iinfo(dtype).max
    return cv2.imencode(".png", pixels)[1].tobytes()


def test_an_image_is_looked_at_once_a_second():
    shown, now = [], [0.0]
    meter = ExposureMeter(LIMITS, DEPTH, lambda *values: shown.append(values), lambda: now[0])
    for at, level in ((0.0, 51), (0.9, 0), (1.0, 102)):
        now[0] = at
        meter.look(image(level), "image/png")
    assert shown == [(0.2, 0.0), (0.4, 0.0)]


def test_white_pixels_are_those_that_a_worker_sees_as_white():
    shown = []
    ExposureMeter(LIMITS, DEPTH, lambda *values: shown.append(values)).look(image(0, white=100), "image/png")
    deep = ExposureMeter(LIMITS, BitDepth(12, "low"), lambda *values: shown.append(values))
    pixels = np.zeros((20, 20), np.uint16)
    pixels.flat[:100] = 4095
    deep.look(cv2.imencode(".png", pixels)[1].tobytes(), "image/png")
    assert shown == [(0.25, 0.25)] * 2


def test_an_image_that_cannot_be_decoded_is_not_shown():
    meter = ExposureMeter(LIMITS, DEPTH, lambda *_: pytest.fail("it was shown"))
    meter.look(b"\x89PNG\r\n\x1a\n", "image/png")


def test_the_brightness_of_a_bank_is_that_of_its_golden_images(tmp_path):
    for name, level in (("golden-lowest", 51), ("golden-highest", 153)):
        (tmp_path / f"{name}.png").write_bytes(image(level))
    (tmp_path / "golden.json").write_text("{}")
    (tmp_path / "golden-median.png").write_bytes(b"damaged")
    assert exposure.of_bank(tmp_path, LIMITS, DEPTH) == pytest.approx(0.4)
    assert exposure.of_bank(tmp_path / "none", LIMITS, DEPTH) is None


def test_a_camera_without_a_bank_shows_no_brightness_of_the_fit():
    without, with_bank = Registry(), Registry()
    ExposureMetrics("l", "c", None, without).show(0.5, 0.1)
    ExposureMetrics("l", "c", 0.4, with_bank)
    assert without.get_sample_value("patchline_camera_brightness", LABELS) == 0.5
    assert without.get_sample_value("patchline_camera_white_share", LABELS) == 0.1
    assert without.get_sample_value("patchline_camera_fit_brightness", LABELS) is None
    assert with_bank.get_sample_value("patchline_camera_fit_brightness", LABELS) == 0.4
    assert with_bank.get_sample_value("patchline_camera_brightness", LABELS) is None
