import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from patchline import config
from patchline.inspection import decode, image_header
from patchline.protocol import image_files
from patchline.protocol.errors import Reason, Unusable

LIMITS = config.Images()
SUFFIXES = {
    "image/png": ".png",
    "image/bmp": ".bmp",
    "image/tiff": ".tiff",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
}


@pytest.fixture
def rgb():
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2)


def encode(pixels, suffix):
    return cv2.imencode(suffix, pixels)[1].tobytes()


def save_with_pillow(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def decoding_error(image, content_type, limits=LIMITS):
    with pytest.raises(Unusable) as caught:
        decode.decode(image, content_type, limits)
    return caught.value


@pytest.mark.parametrize("content_type", ["image/png", "image/bmp", "image/tiff"])
def test_a_lossless_image_is_decoded_to_the_same_pixels(rgb, content_type):
    image = encode(rgb[..., ::-1], SUFFIXES[content_type])
    assert np.array_equal(decode.decode(image, content_type, LIMITS), rgb)


@pytest.mark.parametrize("content_type", ["image/jpeg", "image/webp"])
def test_a_lossy_image_is_decoded_to_nearly_the_same_pixels(rgb, content_type):
    image = encode(rgb[..., ::-1], SUFFIXES[content_type])
    assert np.abs(decode.decode(image, content_type, LIMITS).astype(int) - rgb).mean() < 5


@pytest.mark.parametrize("content_type", ["image/png", "image/jpeg", "image/bmp", "image/tiff", "image/webp"])
def test_grey_becomes_three_equal_channels(rgb, content_type):
    decoded = decode.decode(encode(rgb[..., 0], SUFFIXES[content_type]), content_type, LIMITS)
    assert decoded.shape == (60, 80, 3)
    assert np.abs(decoded.max(axis=2).astype(int) - decoded.min(axis=2)).max() <= 4  # WebP has no grey format


GREY = {
    "PNG": {},
    "JPEG": {},
    "progressive JPEG": {"progressive": True},
    "BMP": {},
    "TIFF": {"compression": "tiff_lzw"},
    "PPM": {},
}


@pytest.mark.parametrize("mode", ["L", "1"])
@pytest.mark.parametrize("name", GREY)
def test_a_grey_image_is_one_channel_for_the_backbone_and_the_same_three_for_people(rgb, name, mode):
    if mode == "1" and ("JPEG" in name or name == "PPM"):
        mode = "L"
    grey = Image.fromarray(rgb[..., 0]).convert(mode)
    image = save_with_pillow(grey, format=name.split()[-1], **GREY[name])
    content_type = image_files.detect_content_type(image)
    pixels = decode.for_backbone(image, content_type, LIMITS).pixels
    assert pixels.shape == (60, 80)
    colour = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    assert np.array_equal(decode.to_rgb(pixels), colour)
    assert np.array_equal(decode.decode(image, content_type, LIMITS), colour)


@pytest.mark.parametrize(
    ("name", "mode"), [("PNG", "P"), ("PNG", "LA"), ("PNG", "RGB"), ("JPEG", "RGB"), ("TIFF", "P")]
)
def test_an_image_with_colours_a_palette_or_alpha_has_three_channels_for_the_backbone_too(rgb, name, mode):
    image = save_with_pillow(Image.fromarray(rgb).convert(mode), format=name)
    assert decode.for_backbone(image, f"image/{name.lower()}", LIMITS).pixels.shape == (60, 80, 3)


@pytest.mark.parametrize("content_type", ["image/png", "image/tiff"])
@pytest.mark.parametrize("brightest", [300, 65_535])
def test_16_bits_lose_their_low_byte_whatever_the_range_of_the_image(content_type, brightest):
    deep = np.linspace(0, brightest, 60 * 80).astype(np.uint16).reshape(60, 80)
    decoded = decode.decode(encode(deep, SUFFIXES[content_type]), content_type, LIMITS)
    assert np.array_equal(decoded[..., 0], (deep >> 8).astype(np.uint8))


@pytest.mark.parametrize("content_type", ["image/png", "image/tiff"])
def test_alpha_is_ignored(rgb, content_type):
    transparent = np.dstack([rgb[..., ::-1], np.zeros((60, 80), np.uint8)])
    assert np.array_equal(decode.decode(encode(transparent, SUFFIXES[content_type]), content_type, LIMITS), rgb)


def test_an_orientation_tag_is_ignored(rgb):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = save_with_pillow(Image.fromarray(rgb), format="JPEG", exif=exif)
    assert decode.decode(image, "image/jpeg", LIMITS).shape == (60, 80, 3)


def test_palette_and_one_bit_images_are_decoded(rgb):
    for mode in ("P", "1"):
        image = save_with_pillow(Image.fromarray(rgb).convert(mode), format="PNG")
        assert decode.decode(image, "image/png", LIMITS).shape == (60, 80, 3)


@pytest.mark.parametrize("content_type", list(SUFFIXES))
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_image_is_unreadable(rgb, content_type, share):
    image = encode(rgb[..., ::-1], SUFFIXES[content_type])
    assert decoding_error(image[: int(len(image) * share)], content_type).reason is Reason.UNREADABLE_IMAGE


@pytest.mark.parametrize("image", [b"", b"\x00", b"<svg xmlns='http://www.w3.org/2000/svg'/>", bytes(range(256)) * 8])
def test_bytes_that_are_no_image_are_unreadable(image):
    assert decoding_error(image, "image/png").reason is Reason.UNREADABLE_IMAGE


def test_the_error_for_an_unknown_content_type_names_the_known_ones(rgb):
    error = decoding_error(encode(rgb, ".png"), "text/plain")
    assert error.reason is Reason.UNSUPPORTED_CONTENT_TYPE
    assert "text/plain" in error.detail
    assert "image/png, image/jpeg, image/bmp, image/tiff, image/webp" in error.detail


@pytest.mark.parametrize("content_type", ["", "text/plain", "image/gif", "image/PNG", "../png"])
def test_an_unknown_content_type_is_refused(rgb, content_type):
    assert decoding_error(encode(rgb, ".png"), content_type).reason is Reason.UNSUPPORTED_CONTENT_TYPE


def test_too_many_bytes_are_refused(rgb):
    error = decoding_error(encode(rgb, ".png"), "image/png", config.Images(max_bytes=100))
    assert error.reason is Reason.IMAGE_OVER_LIMIT


def test_a_decompression_bomb_is_refused_by_its_header():
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data = b"IDAT" + zlib.compress(bytes(10_000))
    bomb += struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    error = decoding_error(bomb, "image/png")
    assert error.reason is Reason.IMAGE_OVER_LIMIT
    assert "60000 x 60000" in error.detail


def test_a_tiny_image_is_refused():
    assert (
        decoding_error(encode(np.zeros((3, 200, 3), np.uint8), ".png"), "image/png").reason is Reason.IMAGE_OVER_LIMIT
    )


def test_several_frames_are_refused(rgb):
    first, second = Image.fromarray(rgb), Image.fromarray(255 - rgb)
    for kind, content_type in (("TIFF", "image/tiff"), ("WEBP", "image/webp"), ("PNG", "image/png")):
        image = save_with_pillow(first, format=kind, save_all=True, append_images=[second])
        assert "2 frames" in decoding_error(image, content_type).detail


def test_floating_point_pixels_are_refused():
    image = encode(np.random.default_rng(0).random((60, 80)).astype(np.float32), ".tiff")
    assert decoding_error(image, "image/tiff").reason is Reason.UNREADABLE_IMAGE


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_orientation_tag_is_read(format_, orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    target = io.BytesIO()
    Image.new("RGB", (20, 30)).save(target, format_, exif=tags)
    assert image_header.orientation(target.getvalue()) == orientation


@pytest.mark.parametrize("image", [b"", b"no image", b"\xff\xd8\xff"])
def test_what_has_no_orientation_tag_is_upright(image):
    assert image_header.orientation(image) == 1
