"""Formats, depths, orientations and alpha: each picture is decoded to the right pixels, or refused with advice."""

import contextlib
import struct

import numpy as np
import pytest
from PIL import Image

from patchline import config
from patchline.config import BitDepth
from patchline.inspection import decode
from patchline.protocol import image_files
from patchline.protocol.errors import Reason, Unusable
from patchline.publisher import whole_image
from tests import pictures

LIMITS = config.Images()
RNG = np.random.default_rng(7)
RGB = np.asarray(Image.fromarray(RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((83, 61)))
GREY = RGB[..., 0].copy()
ALPHA = RNG.integers(0, 256, GREY.shape, dtype=np.uint8)
RGBA, GREY_ALPHA = np.dstack([RGB, ALPHA]), np.dstack([GREY, ALPHA])
FLIPS = {2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1]}
FLIPS |= {5: lambda a: a.swapaxes(0, 1), 6: lambda a: a.swapaxes(0, 1)[:, ::-1]}
FLIPS |= {7: lambda a: a.swapaxes(0, 1)[::-1, ::-1], 8: lambda a: a.swapaxes(0, 1)[::-1], 1: lambda a: a}


def deepen(values, bits):
    """The same picture with more bits, whose lower bits are noise."""
    low = RNG.integers(0, 1 << (bits - 8), values.shape).astype(np.uint16)
    return (values.astype(np.uint16) << (bits - 8)) | low


def decoded(image, depth=decode.AS_STORED, content_type="image/png"):
    return decode.decode(image, content_type, LIMITS, depth)


def refusal(image, depth=decode.AS_STORED):
    with pytest.raises(Unusable) as caught:
        decoded(image, depth)
    return caught.value.detail


def expect(image, pixels, depth=decode.AS_STORED, tolerance=0):
    result = decoded(image, depth)
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous
    pixels = np.dstack([pixels] * 3) if pixels.ndim == 2 else pixels
    assert result.shape == pixels.shape
    difference = np.abs(result.astype(int) - pixels)
    assert difference.max() == 0 if tolerance == 0 else difference.mean() < tolerance


TIFFS = {
    "grey": (pictures.tiff(GREY), GREY),
    "colour": (pictures.tiff(RGB), RGB),
    "big-endian": (pictures.tiff(RGB, order=">"), RGB),
    "BigTIFF": (pictures.tiff(RGB, big=True), RGB),
    "big-endian BigTIFF": (pictures.tiff(RGB, order=">", big=True), RGB),
    "Deflate": (pictures.tiff(RGB, compression=8), RGB),
    "planar": (pictures.tiff(RGB, planar=True), RGB),
    "white is 0": (pictures.tiff(GREY, tags=[(262, [0])]), 255 - GREY),
    "thumbnail last": (pictures.tiff(RGB, thumbnail="last"), RGB),
    "thumbnail first": (pictures.tiff(RGB, thumbnail="first"), RGB),
    "16 bits, thumbnail first": (pictures.tiff(deepen(RGB, 16), thumbnail="first"), RGB),
    "thumbnail first, BigTIFF": (pictures.tiff(GREY, thumbnail="first", big=True), GREY),
    "alpha": (pictures.tiff(RGBA, tags=[(338, [2])]), RGB),
    "thumbnail first, alpha": (pictures.tiff(RGBA, thumbnail="first", tags=[(338, [2])]), RGB),
    "planar, alpha": (pictures.tiff(RGBA, planar=True, tags=[(338, [2])]), RGB),
    "associated alpha": (pictures.tiff(RGBA, tags=[(338, [1])]), RGB),
    "unknown fourth channel": (pictures.tiff(RGBA, tags=[(338, [0])]), RGB),
    "grey and alpha": (pictures.tiff(GREY_ALPHA, tags=[(338, [2])]), GREY),
    "16 bits": (pictures.tiff(deepen(GREY, 16)), GREY),
    "16 bits in colour": (pictures.tiff(deepen(RGB, 16)), RGB),
    "16 bits, big-endian": (pictures.tiff(deepen(RGB, 16), order=">"), RGB),
    "16 bits, white is 0": (pictures.tiff(deepen(GREY, 16), tags=[(262, [0])]), 255 - GREY),
    "16 bits, planar": (pictures.tiff(deepen(RGB, 16), planar=True), RGB),
    "16 bits, alpha": (pictures.tiff(deepen(RGBA, 16), tags=[(338, [2])]), RGB),
    "16 bits, Deflate": (pictures.tiff(deepen(RGB, 16), compression=8), RGB),
}


@pytest.mark.parametrize("kind", TIFFS)
def test_a_tiff_is_decoded_to_its_pixels(kind):
    image, pixels = TIFFS[kind]
    is_rounded = kind.startswith("16") and pixels.ndim == 3  # by libtiff, where the depth is not set
    expect(image, pixels, tolerance=0.3 if is_rounded else 0)
    if is_rounded and "planar" not in kind:
        expect(image, pixels, BitDepth(16))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("values", [GREY, RGB], ids=["grey", "colour"])
def test_a_packed_tiff_has_the_depth_that_it_declares(values, bits, order):
    for compression in (1, 8):
        image = pictures.tiff(deepen(values, bits), bits, order, compression=compression)
        expect(image, values)
        expect(image, values, BitDepth(bits))
    inverted = pictures.tiff(deepen(GREY, bits), bits, order, tags=[(262, [0])])
    expect(inverted, 255 - GREY)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", "tiff_deflate"])
def test_a_compressed_tiff_of_pillow_is_decoded(compression):
    expect(pictures.pillow(Image.fromarray(RGB), "TIFF", compression=compression), RGB)
    expect(pictures.pillow(Image.fromarray(deepen(GREY, 16)), "TIFF", compression=compression), GREY)


def test_a_jpeg_in_a_tiff_and_fax_codes_are_decoded():
    expect(pictures.pillow(Image.fromarray(RGB), "TIFF", compression="jpeg", quality=95), RGB, tolerance=4)
    for compression in (None, "group3", "group4"):
        image = pictures.pillow(pictures.one_bit(GREY), "TIFF", compression=compression)
        expect(image, np.where(GREY > 127, 255, 0))


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("values", [GREY, RGB, deepen(GREY, 16), deepen(RGB, 16)], ids=["8", "rgb8", "16", "rgb16"])
def test_a_tiled_tiff_is_decoded(values, byteorder, tmp_path):
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "tiles.tiff"
    tifffile.imwrite(path, values, tile=(32, 32), byteorder=byteorder, photometric="rgb" if values.ndim == 3 else None)
    depth = BitDepth(8 * values.itemsize) if values.ndim == 3 else decode.AS_STORED
    expect(path.read_bytes(), (values >> (8 * (values.itemsize - 1))).astype(np.uint8), depth)


@pytest.mark.parametrize(
    ("image", "advice"),
    [
        (pictures.tiff(GREY.astype(np.float32), 32, tags=[(339, [3])]), "write unsigned 8 or 16 bits"),
        (pictures.tiff(GREY.astype(np.int16), tags=[(339, [2])]), "write unsigned 8 or 16 bits"),
        (pictures.tiff(GREY.astype(np.uint32)), "32 bits per channel; write 8, 10, 12, 14 or 16"),
        (pictures.tiff(GREY >> 4, 4), "4 bits per channel; write 8, 10, 12, 14 or 16"),
        (pictures.tiff(RGB, tags=[(262, [8])]), "write grey or RGB"),
        (pictures.tiff(GREY, tags=[(262, [32803])]), "write grey or RGB"),
        (pictures.tiff(GREY, tags=[(259, [34712])]), "compression 34712; write none, LZW or Deflate"),
        (pictures.tiff(RGBA, order=">", big=True, tags=[(338, [2])]), "write it without alpha"),
        (pictures.tiff(RGBA, tags=[(262, [1])]), "4 channels of 8 bits; write grey or RGB"),
        (pictures.tiff(deepen(GREY_ALPHA, 16), tags=[(338, [2])]), "2 channels of 16 bits; write grey or RGB"),
        (pictures.tiff(deepen(RGB, 12), 12, planar=True), "write them interleaved"),
        (pictures.tiff(RGB, tags=[(258, [5, 6, 5])]), "the same for all"),
        (pictures.tiff(RGB, thumbnail="last", tags=[(254, [0])]), "2 frames; send one image per part"),
        (pictures.tiff(RGB, tags=[(254, [1])]), "0 frames; send one image per part"),
    ],
    ids=[
        *(
            "float",
            "signed",
            "32 bits",
            "4 bits",
            "CIELab",
            "Bayer",
            "JPEG 2000",
            "alpha in a big-endian BigTIFF",
            "four grey channels",
        ),
        *("16-bit grey and alpha", "packed planar", "unequal channels", "two pages", "only a thumbnail"),
    ],
)
def test_a_tiff_that_cannot_be_decoded_right_is_refused_with_advice(image, advice):
    assert advice in refusal(image)


@pytest.mark.parametrize("turn", range(1, 9))
def test_the_order_of_the_rows_of_a_tiff_is_followed_at_every_depth(turn):
    right = np.ascontiguousarray(FLIPS[turn](GREY))
    for image in (
        pictures.tiff(GREY, tags=[(274, [turn])]),
        pictures.tiff(deepen(GREY, 16), tags=[(274, [turn])]),
        pictures.tiff(deepen(GREY, 12), 12, tags=[(274, [turn])]),
    ):
        expect(image, right)
    expect(pictures.tiff(deepen(GREY, 12), tags=[(274, [turn])]), right, BitDepth(12))
    expect(pictures.tiff(GREY_ALPHA, tags=[(274, [turn]), (338, [2])]), right)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_an_orientation_of_exif_is_ignored(format_, turn):
    tags = Image.Exif()
    tags[0x0112] = turn
    options = {"JPEG": {"quality": 95}, "PNG": {}, "WEBP": {"lossless": True}}[format_]
    expect(pictures.pillow(Image.fromarray(RGB), format_, exif=tags, **options), RGB, tolerance=4)


@pytest.mark.parametrize(
    ("values", "pixels", "colour_type"),
    [(GREY, GREY, 0), (RGB, RGB, 2), (GREY_ALPHA, GREY, 4), (RGBA, RGB, 6)],
    ids=["grey", "colour", "grey and alpha", "colour and alpha"],
)
def test_a_png_is_decoded_at_8_bits_and_at_16(values, pixels, colour_type):
    expect(pictures.png(values, colour_type), pixels)
    expect(pictures.png(deepen(values, 16), colour_type, 16), pixels)
    for bits in (10, 12, 14):
        deep = deepen(values, bits)
        expect(pictures.png(deep, colour_type, 16), pixels, BitDepth(bits))
        expect(pictures.png(deep << (16 - bits), colour_type, 16), pixels, BitDepth(bits, "high"))


def test_the_depth_is_that_of_the_colours_and_not_that_of_alpha():
    opaque = np.full(GREY.shape, 65_535, np.uint16)
    for values, colour_type in ((GREY, 4), (RGB, 6)):
        low = np.dstack([deepen(values, 12), opaque])
        high = np.dstack([deepen(values, 12) << 4, opaque])
        expect(pictures.png(low, colour_type, 16), values, BitDepth(12))
        expect(pictures.png(high, colour_type, 16), values, BitDepth(12, "high"))
        assert decode.brightest(pictures.png(low, colour_type, 16), "image/png", LIMITS) < 4096
    expect(pictures.tiff(low, tags=[(338, [2])]), RGB, BitDepth(12))


def test_a_png_of_few_bits_or_a_palette_is_decoded():
    for bits in (1, 2, 4):
        few = GREY >> (8 - bits)
        expect(pictures.png(few, 0, bits), few * (255 // (2**bits - 1)))
    for colours in (2, 16, 200):
        image = Image.fromarray(RGB).quantize(colours)
        for format_ in ("PNG", "BMP", "TIFF"):
            expect(pictures.pillow(image, format_), np.asarray(image.convert("RGB")))


def test_a_multi_picture_jpeg_is_judged_by_its_first_picture():
    image = pictures.multi_picture_jpeg(Image.fromarray(RGB), Image.fromarray(255 - RGB).resize((40, 30)))
    assert b"MPF\0" in image
    expect(image, RGB, tolerance=4)


def test_a_cmyk_jpeg_is_decoded():
    image = pictures.pillow(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=95)
    expect(image, RGB, tolerance=4)


def test_a_jpeg_of_12_bits_or_without_loss_is_refused_with_advice():
    image = pictures.pillow(Image.fromarray(GREY), "JPEG")
    frame = image.index(b"\xff\xc0")
    twelve = image[: frame + 4] + b"\x0c" + image[frame + 5 :]
    assert "12 bits per channel; write 8" in refusal(twelve)
    assert "lossless JPEG; write a baseline JPEG" in refusal(image[:frame] + b"\xff\xc3" + image[frame + 2 :])


GREYS = b"".join(bytes((value, value, value, 0)) for value in range(256))
SIZE = (GREY.shape[1], GREY.shape[0])
BGR = RGB[::-1, :, ::-1]
FIVE = (RGB >> 3).astype("<u2")
BLOCKS = GREY & 0xC0
RUNS = b"".join(b"".join(bytes((1, value)) for value in row) + b"\0\0" for row in BLOCKS[::-1]) + b"\0\1"
BMPS = {
    "24 bits": (pictures.bmp(BGR, SIZE, 24), RGB),
    "24 bits, top row first": (pictures.bmp(BGR[::-1], (SIZE[0], -SIZE[1]), 24), RGB),
    "8 bits": (pictures.bmp(GREY[::-1], SIZE, 8, palette=GREYS), GREY),
    "8 bits, top row first": (pictures.bmp(GREY, (SIZE[0], -SIZE[1]), 8, palette=GREYS), GREY),
    "32 bits": (pictures.bmp(np.dstack([BGR, ALPHA]), SIZE, 32), RGB),
    "32 bits with masks": (
        pictures.bmp(np.dstack([BGR, ALPHA]), SIZE, 32, 3, masks=(0xFF0000, 0xFF00, 0xFF)),
        RGB,
    ),
    "16 bits": (
        pictures.bmp((FIVE[..., 0] << 10 | FIVE[..., 1] << 5 | FIVE[..., 2])[::-1], SIZE, 16),
        RGB >> 3 << 3,
    ),
    "16 bits with masks": (
        pictures.bmp(
            (FIVE[..., 0] << 11 | FIVE[..., 1] << 6 | FIVE[..., 2])[::-1], SIZE, 16, 3, masks=(0xF800, 0x7E0, 0x1F)
        ),
        RGB >> 3 << 3,
    ),
    "1 bit": (
        pictures.bmp(np.packbits(GREY > 127, axis=1)[::-1], SIZE, 1, palette=GREYS[:4] + GREYS[-4:]),
        np.where(GREY > 127, 255, 0),
    ),
    "4 bits": (
        pictures.bmp(
            np.frombuffer(pictures.packed(GREY >> 4, 4), np.uint8).reshape(len(GREY), -1)[::-1],
            SIZE,
            4,
            palette=b"".join(GREYS[4 * value : 4 * value + 4] for value in range(0, 256, 17)),
        ),
        (GREY >> 4) * 17,
    ),
    "run lengths": (pictures.bmp(RUNS, SIZE, 8, 1, palette=GREYS), BLOCKS),
}


def os2_bmp():
    """A BMP with the first kind of header, of 12 bytes."""
    rows = pictures.bmp(BGR, SIZE, 24)[54:]
    header = struct.pack("<IHHHH", 12, *SIZE, 1, 24)
    return b"BM" + struct.pack("<IHHI", 26 + len(rows), 0, 0, 26) + header + rows


BMPS["24 bits with a header of OS/2"] = (os2_bmp(), RGB)


@pytest.mark.parametrize("kind", BMPS)
def test_a_bmp_is_decoded_to_its_pixels(kind):
    expect(*BMPS[kind])


@pytest.mark.parametrize("masks", [(0xFF, 0xFF00, 0xFF0000), (0xFF000000, 0xFF0000, 0xFF00)])
def test_a_bmp_with_channels_in_another_order_is_refused(masks):
    refused = refusal(pictures.bmp(np.dstack([BGR, ALPHA]), SIZE, 32, 3, masks=masks))
    assert "layout" in refused or "write 24 bits a pixel" in refused


@pytest.mark.parametrize(("kind", "values"), [("P5", GREY), ("P6", RGB)])
def test_a_pgm_or_ppm_is_decoded_and_says_its_depth_itself(kind, values):
    expect(pictures.pnm(kind, values, 255), values)
    for bits in (10, 12, 14, 16):
        image = pictures.pnm(kind, deepen(values, bits), 2**bits - 1)
        expect(image, values)
        expect(image, values, BitDepth(bits))
    expect(pictures.pnm(kind, deepen(values, 12), 65_535), values, BitDepth(12))
    assert "truncated" in refusal(image[:-100])


def test_a_pgm_of_another_range_or_in_text_is_refused_with_advice():
    assert "greatest value is 1000; write 255, 1023, 4095, 16383 or 65535" in refusal(
        pictures.pnm("P5", deepen(GREY, 10) % 1000, 1000)
    )
    assert "a PGM in text" in refusal(b"P2 2 2 255 1 2 3 4")


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_values_below_a_depth_become_the_8_highest_bits_and_above_it_are_refused(bits):
    deep = deepen(GREY, bits) if bits > 8 else GREY.astype(np.uint16)
    for encode in (pictures.tiff, lambda values: pictures.png(values, 0, 16)):
        expect(encode(deep), GREY, BitDepth(bits))
        if bits < 16:
            above = deep.copy()
            above[3, 3] = 2**bits
            refused = refusal(encode(above), BitDepth(bits))
            assert f"the value {2**bits}, but {bits} bits end at {2**bits - 1}" in refused
            assert "bit_alignment: high" in refused


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_low_bits_below_a_high_alignment_are_refused(bits):
    high = (GREY.astype(np.uint16) << 8) | (1 << 8)
    for encode in (pictures.tiff, lambda values: pictures.png(values, 0, 16)):
        expect(encode(high), GREY | 1, BitDepth(bits, "high"))
        refused = refusal(encode(high | (1 << (15 - bits))), BitDepth(bits, "high"))
        assert f"its lowest {16 - bits} bits are in use" in refused
        assert "bit_alignment: low" in refused


def test_a_file_that_declares_another_depth_than_the_recipe_is_refused():
    twelve = pictures.tiff(deepen(GREY, 12), 12)
    eight = [
        pictures.tiff(GREY),
        pictures.png(GREY, 0),
        pictures.pillow(Image.fromarray(RGB), "JPEG"),
        BMPS["8 bits"][0],
    ]
    for bits, images in ((8, [twelve]), (10, [twelve, *eight]), (12, eight), (16, [twelve, *eight])):
        for image in images:
            refused = refusal(image, BitDepth(bits))
            assert f"bits per channel, but bit_depth of the category is {bits}" in refused
            assert "fit the category again" in refused
    for image in eight:
        assert decoded(image, BitDepth(8)).shape == RGB.shape


@pytest.mark.parametrize("content_type", decode.FORMATS)
def test_the_content_decides_and_not_the_content_type(content_type):
    for image in (pictures.png(RGB, 2), pictures.tiff(RGB), BMPS["24 bits"][0], pictures.pnm("P6", RGB, 255)):
        assert np.array_equal(decoded(image, content_type=content_type), RGB)


@pytest.mark.parametrize(
    ("image", "name"),
    [
        (b"GIF89a" + bytes(50), "a GIF"),
        (b"\0\0\0\x18ftypheic" + bytes(50), "a HEIC photo"),
        (b"\0\0\0\x1cftypavif" + bytes(50), "an AVIF"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(50), "a JPEG 2000"),
        (bytes(100), "no image that is read here"),
    ],
)
def test_bytes_of_another_format_are_named_with_the_formats_to_write(image, name):
    refused = refusal(image)
    assert name in refused
    assert "write PNG, JPEG, BMP, TIFF, WebP, PGM, PPM" in refused


@pytest.mark.parametrize(
    "bomb",
    [
        pictures.tiff(GREY, tags=[(256, [60_000]), (257, [60_000])]),
        pictures.tiff(GREY, big=True, tags=[(256, [2**32 - 1]), (257, [2**32 - 1])]),
        pictures.tiff(deepen(GREY, 12), 12, tags=[(256, [60_000]), (257, [60_000])]),
        b"P5 60000 60000 255\n",
        b"P6 999999999 999999999 65535\n",
    ],
)
def test_a_decompression_bomb_is_refused_by_its_header(bomb):
    with pytest.raises(Unusable) as caught:
        decoded(bomb, BitDepth(12))
    assert caught.value.reason is Reason.IMAGE_OVER_LIMIT


@pytest.mark.parametrize(
    "image",
    [
        *(TIFFS["BigTIFF"][0], TIFFS["thumbnail first"][0], pictures.tiff(deepen(GREY, 12), 12)),
        *(BMPS["run lengths"][0], os2_bmp(), pictures.pnm("P6", RGB, 255)),
    ],
    ids=["BigTIFF", "thumbnail first", "packed", "run lengths", "OS/2 BMP", "PPM"],
)
def test_every_truncation_and_every_changed_header_byte_is_decoded_or_refused(image):
    damaged = [image[:length] for length in (*range(100), *range(100, len(image), 97))]
    for position in (*range(60), *range(len(image) - 250, len(image))):
        damaged.append(image[:position] + bytes([image[position] ^ 0xFF]) + image[position + 1 :])
    for picture in damaged:
        with contextlib.suppress(Unusable):
            assert decoded(picture).dtype == np.uint8


def test_a_tiff_whose_directories_form_a_circle_is_read_once():
    image = bytearray(pictures.tiff(GREY))
    (directory,) = struct.unpack_from("<I", image, 4)
    (count,) = struct.unpack_from("<H", image, directory)
    struct.pack_into("<I", image, directory + 2 + 12 * count, directory)
    expect(bytes(image), GREY)


def test_a_size_that_readers_understand_differently_is_refused_or_understood_as_opencv_does():
    image = pictures.tiff(GREY)
    width, height = image.index(struct.pack("<HHI", 256, 4, 1)), image.index(struct.pack("<HHI", 257, 4, 1))
    twice = image[:height] + image[width : width + 8] + struct.pack("<I", 60_000) + image[height + 12 :]
    assert "tag 256 is there twice" in refusal(twice)
    with pytest.raises(Unusable) as caught:
        decoded(b"P5#\r60000 60000 255\n16 16 255\n" + bytes(256))
    assert caught.value.reason is Reason.IMAGE_OVER_LIMIT


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(
            lambda: pictures.bmp(np.zeros((3000, 4000, 3), np.uint8), (4000, 3000), 24), id="12 MP colour BMP"
        ),
        pytest.param(
            lambda: pictures.bmp(np.zeros((4096, 6000, 3), np.uint8), (6000, 4096), 24), id="24 MP colour BMP"
        ),
        pytest.param(lambda: pictures.tiff(np.zeros((3648, 5472), np.uint16)), id="20 MP TIFF of 16 bits"),
        pytest.param(lambda: pictures.tiff(np.zeros((8192, 8192), np.uint8)), id="8k line scan"),
    ],
)
def test_the_pictures_of_ordinary_cameras_are_within_the_default_limits(image):
    encoded = image()
    assert whole_image.is_whole(encoded)
    assert decode.decode(encoded, "image/bmp", config.Images()).any() == 0


def test_every_format_has_a_file_suffix():
    assert set(image_files.CONTENT_TYPES.values()) == set(decode.FORMATS)
