"""Kinds of bad and unusual input, each with the verdict that it must get."""

import base64
import gzip
import io
import random
import struct
import zlib
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from patchline.protocol.errors import Reason

JUDGED, EXPIRED = "judged", "expired"
MALFORMED, UNREADABLE = Reason.MALFORMED_MESSAGE, Reason.UNREADABLE_IMAGE
UNSUPPORTED, OVER_LIMIT = Reason.UNSUPPORTED_CONTENT_TYPE, Reason.IMAGE_OVER_LIMIT
FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "BMP": "image/bmp", "TIFF": "image/tiff", "WEBP": "image/webp"}
_YEAR_2001_MS = 978_307_200_000


@dataclass(frozen=True)
class Kind:
    """A message and its expected fate: JUDGED, EXPIRED, or the Reason of an error and a dead letter."""

    name: str
    fate: object
    image: bytes = field(repr=False)
    content_type: str | None = "image/png"
    properties: dict = field(default_factory=dict)
    headers: dict = field(default_factory=dict)


def kinds(png):
    """All kinds, made from one good PNG."""
    rgb = Image.open(io.BytesIO(png)).convert("RGB")
    all_kinds = [*_damaged(rgb), *_no_images(png), *_bombs(rgb), *_several_frames(rgb), *_depths(rgb), *_sizes()]
    all_kinds += [*_content_types(rgb, png), *_headers(png), *_properties(png)]
    assert len({kind.name for kind in all_kinds}) == len(all_kinds)
    return all_kinds


def encode(image, format_, **options):
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def _damaged(rgb):
    rng = random.Random(1)
    for format_, content_type in FORMATS.items():
        image = encode(rgb, format_)
        for share in (0.02, 0.5, 0.9):
            truncated = image[: max(4, int(len(image) * share))]
            yield Kind(f"{format_} truncated to {share:.0%}", UNREADABLE, truncated, content_type)
        without_header = bytes(64) + image[64:]
        yield Kind(f"{format_} without its header", UNREADABLE, without_header, content_type)
    for count in (1, 10, 1000, 1_000_000):
        yield Kind(f"{count} random bytes", UNREADABLE, rng.randbytes(count))
    png = bytearray(encode(rgb, "PNG"))
    png[len(png) // 2] ^= 0xFF
    yield Kind("PNG with a wrong checksum", UNREADABLE, bytes(png))
    yield Kind("an empty body", UNREADABLE, b"")
    yield Kind("zeros", UNREADABLE, bytes(5000))


def _no_images(png):
    svg = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    entities = b'<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;&b;">]><svg>&c;</svg>'
    bodies = {"SVG": svg, "SVG with entities": entities, "HTML": b"<!DOCTYPE html><img src=x onerror=alert(1)>"}
    bodies |= {
        "JSON": b'{"image": "x"}',
        "a PDF": b"%PDF-1.7\n%\xe2\xe3\n1 0 obj<<>>endobj",
        "a ZIP": b"PK\x03\x04" * 50,
    }
    bodies |= {"base64": base64.b64encode(png), "a gzipped PNG": gzip.compress(png), "an ELF": b"\x7fELF" * 99}
    bodies |= {"a pickle": b"cos\nsystem\n(S'true'\ntR.", "a path": b"/etc/passwd", "a url": b"http://127.0.0.1/a.png"}
    for name, body in bodies.items():
        yield Kind(name, UNREADABLE, body)
    yield Kind("SVG, declared as SVG", UNSUPPORTED, svg, "image/svg+xml")
    rgb = Image.open(io.BytesIO(png)).convert("RGB")
    for format_, content_type in {"GIF": "image/gif", "ICO": "image/x-icon"}.items():
        body = encode(rgb.convert("P") if format_ == "GIF" else rgb, format_)
        yield Kind(format_, UNSUPPORTED, body, content_type)
        yield Kind(f"{format_}, declared as PNG", UNREADABLE, body)


def _bombs(rgb):
    yield Kind("PNG header of 60000 x 60000", OVER_LIMIT, _png(60_000, 60_000, b""))
    yield Kind("PNG of 20000 x 20000 black pixels", OVER_LIMIT, _png(20_000, 20_000, bytes(2_501 * 20_000), depth=1))
    yield Kind("PNG of 1 x 60000000", OVER_LIMIT, _png(1, 60_000_000, b""))
    bmp = bytearray(encode(rgb, "BMP"))
    bmp[18:26] = struct.pack("<ii", 30_000, 30_000)
    yield Kind("BMP header of 30000 x 30000", OVER_LIMIT, bytes(bmp), "image/bmp")
    jpeg = bytearray(encode(rgb, "JPEG"))
    offset = jpeg.index(b"\xff\xc0") + 5
    jpeg[offset : offset + 4] = struct.pack(">HH", 65_500, 65_500)
    yield Kind("JPEG header of 65500 x 65500", OVER_LIMIT, bytes(jpeg), "image/jpeg")
    yield Kind("a PNG followed by 16.5 MB", OVER_LIMIT, encode(rgb, "PNG") + bytes(16_500_000))  # below 16 MiB
    yield Kind("17 MB of zeros", OVER_LIMIT, bytes(17_000_000))


def _several_frames(rgb):
    frames = [rgb.rotate(90), rgb.rotate(180)]
    for name, format_ in (
        ("an animated PNG", "PNG"),
        ("an animated WebP", "WEBP"),
        ("a TIFF with several pages", "TIFF"),
    ):
        body = encode(rgb, format_, save_all=True, append_images=frames)
        yield Kind(name, UNREADABLE, body, FORMATS[format_])
    yield Kind("an animated GIF", UNSUPPORTED, encode(rgb, "GIF", save_all=True, append_images=frames), "image/gif")


def _depths(rgb):
    grey16 = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    images = {
        "PNG of 1 bit": (rgb.convert("1"), "PNG", {}),
        "PNG of 8 bit grey": (rgb.convert("L"), "PNG", {}),
        "PNG of 16 bit grey": (grey16, "PNG", {}),
        "PNG of grey and alpha": (rgb.convert("LA"), "PNG", {}),
        "PNG with alpha": (rgb.convert("RGBA"), "PNG", {}),
        "PNG with a palette": (rgb.quantize(200), "PNG", {}),
        "PNG with a palette of 4": (rgb.quantize(4), "PNG", {"bits": 2}),
        "PNG with a transparent palette": (rgb.quantize(16), "PNG", {"transparency": 3}),
        "JPEG of grey": (rgb.convert("L"), "JPEG", {}),
        "JPEG, progressive": (rgb, "JPEG", {"progressive": True}),
        "JPEG with an orientation tag": (rgb, "JPEG", {"exif": _orientation()}),
        "JPEG of CMYK": (rgb.convert("CMYK"), "JPEG", {}),
        "BMP with a palette": (rgb.quantize(200), "BMP", {}),
        "BMP of 1 bit": (rgb.convert("1"), "BMP", {}),
        "TIFF of 16 bit grey": (grey16, "TIFF", {}),
        "TIFF with alpha": (rgb.convert("RGBA"), "TIFF", {}),
        "TIFF, LZW": (rgb, "TIFF", {"compression": "tiff_lzw"}),
        "WebP with alpha": (rgb.convert("RGBA"), "WEBP", {}),
        "WebP, lossless": (rgb, "WEBP", {"lossless": True}),
        "PPM": (rgb, "PPM", {}),
        "JPEG with a preview": (rgb, "MPO", {"save_all": True, "append_images": [rgb.resize((40, 40))]}),
    }
    for name, (image, format_, options) in images.items():
        yield Kind(name, JUDGED, encode(image, format_, **options), FORMATS.get(format_, "image/jpeg"))
    floats = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.float32))
    yield Kind("TIFF of floats", UNREADABLE, encode(floats, "TIFF"), "image/tiff")


def _sizes():
    for width, height in ((1, 1), (4, 4), (15, 200), (200, 15)):
        yield Kind(f"{width} x {height} pixels", OVER_LIMIT, encode(Image.new("RGB", (width, height)), "PNG"))
    for width, height in ((16, 16), (20, 3000), (2000, 1999)):
        yield Kind(f"{width} x {height} pixels", JUDGED, encode(Image.new("RGB", (width, height)), "PNG"))


def _content_types(rgb, png):
    for other in ("image/jpeg", "image/bmp", "image/tiff", "image/webp"):
        yield Kind(f"PNG declared as {other}", JUDGED, png, other)
        yield Kind(f"{other} declared as PNG", JUDGED, encode(rgb, other.removeprefix("image/").upper()))
    for other in ("", "image/PNG", "image/png; charset=utf-8", "image/*", "text/html", "x" * 250, "../png"):
        yield Kind(f"content type {other[:30]!r}", UNSUPPORTED, png, other)
    yield Kind("no content type", MALFORMED, png, None)
    for encoding in ("gzip", "deflate", "base64", "br"):
        yield Kind(f"content encoding {encoding}", MALFORMED, png, properties={"content_encoding": encoding})
    yield Kind("content encoding identity", JUDGED, png, properties={"content_encoding": "identity"})


def _headers(png):
    for name in ("line", "category", "part_id", "captured_at"):
        yield Kind(f"no {name}", MALFORMED, png, headers={name: None})
    for name in ("line", "category", "part_id"):
        for value in (
            "",
            " ",
            "a/b",
            "../../etc",
            "a\\b",
            "a\nb",
            "a\x00b",
            "\x1b[31m",
            "ü",
            "x" * 5000,
            7,
            True,
            ["a"],
        ):
            yield Kind(f"{name} is {str(value)[:12]!r}", MALFORMED, png, headers={name: value})
    yield Kind("line with a dot", MALFORMED, png, headers={"line": "a.b"})
    yield Kind("a category without worker", Reason.UNKNOWN_CATEGORY, png, headers={"category": "can"})
    times = ("soon", 1.5, True, -1, 0, 1_700_000_000, 1_700_000_000_000_000, 2**62, [1], {"a": 1}, b"\xff\xfe")
    for name in ("captured_at", "deadline"):
        for value in times:
            yield Kind(f"{name} is {value!r}", MALFORMED, png, headers={name: value})
    yield Kind("deadline long ago", EXPIRED, png, headers={"deadline": _YEAR_2001_MS})
    yield Kind("captured long ago", JUDGED, png, headers={"captured_at": _YEAR_2001_MS})
    yield Kind("captured in the year 2090", JUDGED, png, headers={"captured_at": 3_786_912_000_000})
    yield Kind("an invalid traceparent", MALFORMED, png, headers={"traceparent": "00-1-2-3"})
    for name in ("job_id", "content_type"):
        yield Kind(f"header {name!r}", MALFORMED, png, headers={name: "x"})
    for name in ("shift", "Line", "\x00"):  # perhaps of a later build
        yield Kind(f"header {name!r}", JUDGED, png, headers={name: "x"})
    yield Kind("a header of the broker", JUDGED, png, headers={"x-anything": "x" * 1000})
    yield Kind("an invalid count of attempts", JUDGED, png, headers={"x-patchline-tried": "many"})


def _properties(png):
    yield Kind("another type of message", MALFORMED, png, properties={"type": "patchline.job.v9"})
    yield Kind("no type of message", MALFORMED, png, properties={"type": None})
    for value in (None, "", "a/b", "../../x", "a\nb", "\x1b[2J", "x" * 200, " "):
        yield Kind(f"message id {str(value)[:12]!r}", MALFORMED, png, properties={"message_id": value})
    yield Kind("another app", JUDGED, png, properties={"app_id": "somebody"})


def _png(width, height, rows, depth=8):
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _orientation():
    tags = Image.Exif()
    tags[0x0112] = 6
    return tags
