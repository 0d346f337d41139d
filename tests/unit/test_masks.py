"""Ground-truth masks of every usual kind."""

import os

import cv2
import numpy as np
import pytest

from patchline.evaluation import masks
from patchline.protocol.errors import SetupError

SHAPE = (40, 60)


@pytest.fixture
def marked():
    mask = np.zeros(SHAPE, bool)
    mask[5:9, 10:30] = True
    mask[30, 50] = True
    return mask


def write(path, pixels, *options):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels, *options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.bmp", "a.BMP", "a.tif", "a.TIFF", "a.webp"])
def test_a_mask_of_any_lossless_type_is_read(tmp_path, marked, name):
    options = [cv2.IMWRITE_WEBP_QUALITY, 101] if name.endswith("webp") else []
    path = write(tmp_path / name, marked.astype(np.uint8) * 255, options)
    assert np.array_equal(masks.read(path, SHAPE, 1) > 0, marked)


@pytest.mark.parametrize("value", [1, 200, 255, 256, 65_535])
def test_a_mask_of_16_bits_marks_what_is_above_zero(tmp_path, marked, value):
    path = write(tmp_path / "a.png", marked.astype(np.uint16) * value)
    assert np.array_equal(masks.read(path, SHAPE, 1) > 0, marked)


@pytest.mark.parametrize("value", [1, 4, 255])
def test_a_mask_of_8_bits_marks_what_is_above_zero(tmp_path, marked, value):
    path = write(tmp_path / "a.png", marked.astype(np.uint8) * value)
    assert masks.read(path, SHAPE, 1).max() == value


@pytest.mark.parametrize("colour", [(0, 0, 255), (255, 0, 0), (1, 1, 1)])
def test_a_coloured_mask_marks_all_but_black(tmp_path, marked, colour):
    path = write(tmp_path / "a.png", marked[:, :, None] * np.array(colour, np.uint8))
    assert np.array_equal(masks.read(path, SHAPE, 1) > 0, marked)


def test_an_opaque_alpha_channel_marks_nothing(tmp_path, marked):
    pixels = np.dstack([marked.astype(np.uint8) * 255] * 3 + [np.full(SHAPE, 255, np.uint8)])
    assert np.array_equal(masks.read(write(tmp_path / "a.png", pixels), SHAPE, 1) > 0, marked)


def test_marks_in_the_transparency_are_refused(tmp_path, marked):
    pixels = np.dstack([np.zeros((*SHAPE, 3), np.uint8), marked.astype(np.uint8) * 255])
    with pytest.raises(SetupError, match=r"a\.png: its marks are in its transparency"):
        masks.read(write(tmp_path / "a.png", pixels), SHAPE, 1)


def test_the_rim_of_a_jpeg_mask_marks_nothing(tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[16:40, 16:48] = 255
    path = write(tmp_path / "a.jpg", mask, [cv2.IMWRITE_JPEG_QUALITY, 70])
    assert np.array_equal(masks.read(path, (64, 64), 1) > 0, mask > 0)


def test_a_mask_whose_name_is_not_utf8_is_read(tmp_path, marked):
    path = tmp_path / os.fsdecode(b"\xff_mask.png")
    path.write_bytes(cv2.imencode(".png", marked.astype(np.uint8))[1].tobytes())
    assert np.array_equal(masks.read(path, SHAPE, 1) > 0, marked)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_image_is_named(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(SetupError, match=r"a\.png: is no mask that can be read"):
        masks.read(tmp_path / "a.png", SHAPE, 1)


def test_a_mask_of_another_size_is_named(tmp_path):
    path = write(tmp_path / "a.png", np.zeros((40, 61), np.uint8))
    with pytest.raises(SetupError, match=r"a\.png: has 61 x 40 pixels, but its image has 60 x 40"):
        masks.read(path, SHAPE, 1)


# How an upright picture is turned to the pixels that a camera with this tag has stored.
STORED = {6: lambda upright: np.rot90(upright, 1), 8: lambda upright: np.rot90(upright, -1)}


@pytest.mark.parametrize("orientation", [6, 8])
def test_an_upright_mask_of_a_turned_image_is_turned_back(tmp_path, marked, orientation):
    stored = STORED[orientation](marked)
    path = write(tmp_path / "a.png", marked.astype(np.uint8))
    assert np.array_equal(masks.read(path, stored.shape, orientation) > 0, stored)


@pytest.mark.parametrize("orientation", [6, 8])
def test_a_mask_as_stored_of_a_turned_image_stays(tmp_path, marked, orientation):
    path = write(tmp_path / "a.png", marked.astype(np.uint8))
    assert np.array_equal(masks.read(path, SHAPE, orientation) > 0, marked)


@pytest.mark.parametrize(("orientation", "shape"), [(3, SHAPE), (2, SHAPE), (5, SHAPE), (6, (40, 40))])
def test_a_mask_that_may_be_turned_or_not_is_refused(tmp_path, orientation, shape):
    path = write(tmp_path / "a.png", np.zeros(shape, np.uint8))
    with pytest.raises(SetupError, match=rf"a\.png: its image has the orientation tag {orientation}"):
        masks.read(path, shape, orientation)


def test_a_defect_of_six_pixels_never_vanishes():
    rng = np.random.default_rng(0)
    for _ in range(40):
        mask = np.zeros((3000, 3000), bool)
        top, left = rng.integers(0, 2997, 2)
        mask[top : top + 2, left : left + 3] = True
        small = masks.shrink(mask, (256, 256))
        assert 1 <= np.count_nonzero(small) <= 4
        row, column = np.argwhere(small)[0]
        assert abs((row + 0.5) * 3000 / 256 - top) < 3000 / 256 + 2
        assert abs((column + 0.5) * 3000 / 256 - left) < 3000 / 256 + 2


@pytest.mark.parametrize("shape", [(256, 256), (20, 30), (13, 17), (40, 60), (97, 61), (80, 120), (1, 1)])
def test_every_marked_pixel_marks_the_pixel_that_it_falls_into(marked, shape):
    small = masks.shrink(marked, shape)
    for row, column in np.argwhere(marked):
        new = (int((row + 0.5) * shape[0] / SHAPE[0]), int((column + 0.5) * shape[1] / SHAPE[1]))
        assert small[new], (row, column)
    if shape[0] <= SHAPE[0] and shape[1] <= SHAPE[1]:
        assert np.count_nonzero(small) <= np.count_nonzero(marked)


def test_a_mask_of_the_same_size_stays_and_a_larger_one_repeats_pixels(marked):
    assert np.array_equal(masks.shrink(marked, SHAPE), marked)
    assert np.array_equal(masks.shrink(marked, (80, 180)), np.kron(marked, np.ones((2, 3), bool)))


def test_nothing_marked_stays_nothing():
    assert not masks.shrink(np.zeros(SHAPE, bool), (7, 9)).any()
