"""Writers of pictures as machine-vision cameras make them: kinds that Pillow and OpenCV read but do not write."""

import io
import itertools
import struct
import zlib

import numpy as np
from PIL import Image


def pillow(image, format_, **options):
    """Encode with Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def packed(values, bits):
    """Values of 1 to 16 bits, the highest bit first, each row from a new byte (TIFF 6.0)."""
    rows = values.reshape(values.shape[0], -1)
    each_bit = (rows[..., None].astype(np.uint32) >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(each_bit.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()


def tiff(values, bits=None, order="<", big=False, thumbnail=None, compression=1, planar=False, tags=()):
    """A TIFF with one strip a page.

    Args:
        values: [height, width] or [height, width, channels].
        bits: of a channel; fewer than those of the array are packed.
        order: of bytes.
        big: BigTIFF.
        thumbnail: `first` or `last`: where a page with a reduced picture is.
        compression: 1 is none, 8 is Deflate, other numbers are only written into the tag.
        planar: the channels lie one after the other.
        tags: (tag, values) that replace others.
    """
    reduced = values[::4, ::4]
    pages = {None: [(values, 0)], "first": [(reduced, 1), (values, 0)], "last": [(values, 0), (reduced, 1)]}[thumbnail]
    mark = b"II" if order == "<" else b"MM"
    header, pointer = (struct.pack(f"{order}HHH", 43, 8, 0), "Q") if big else (struct.pack(f"{order}H", 42), "I")
    start = len(mark + header) + struct.calcsize(pointer)
    body, places = b"", []
    for page, kind in pages:
        data = _strip(page, bits, order, planar, compression)
        offset = start + len(body)
        body += data + b"\0" * (len(data) % 2)
        places.append(start + len(body))
        body += _directory(page, bits, order, big, kind, planar, compression, (offset, len(data)), places[-1], tags)
    for place, following in itertools.pairwise(places):
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), body, place - start)
        link = place - start + (8 + 20 * count if big else 2 + 12 * count)
        body = body[:link] + struct.pack(order + pointer, following) + body[link + struct.calcsize(pointer) :]
    return mark + header + struct.pack(order + pointer, places[0]) + body


def _strip(values, bits, order, planar, compression):
    if planar:
        values = np.concatenate(np.moveaxis(values, 2, 0))
    whole = bits is None or bits == 8 * values.itemsize
    data = values.astype(values.dtype.newbyteorder(order)).tobytes() if whole else packed(values, bits)
    return zlib.compress(data) if compression == 8 else data


def _directory(values, bits, order, big, kind, planar, compression, strip, position, replaced):
    height, width, channels = (*values.shape, 1)[:3]
    offsets, sizes = [strip[0]], [strip[1]]
    if planar:
        sizes = [strip[1] // channels] * channels
        offsets = [strip[0] + number * sizes[0] for number in range(channels)]
    tags = {254: [kind], 256: [width], 257: [height], 258: [bits or 8 * values.itemsize] * channels}
    tags |= {259: [compression], 262: [2 if channels > 2 else 1], 273: offsets, 277: [channels], 278: [height]}
    tags |= {279: sizes, 284: [2 if planar else 1]} | dict(replaced)
    count, entry, pointer = ("Q", 20, "Q") if big else ("H", 12, "I")
    outside = position + struct.calcsize(count) + entry * len(tags) + struct.calcsize(pointer)
    entries, values_outside = b"", b""
    for tag, numbers in sorted(tags.items()):
        is_long = tag in (254, 256, 257, 273, 278, 279)
        value = struct.pack(f"{order}{len(numbers)}{'I' if is_long else 'H'}", *numbers)
        if len(value) > struct.calcsize(pointer):
            values_outside += value
            value = struct.pack(order + pointer, outside + len(values_outside) - len(value))
        head = struct.pack(f"{order}HH{pointer}", tag, 4 if is_long else 3, len(numbers))
        entries += head + value.ljust(struct.calcsize(pointer), b"\0")
    return struct.pack(order + count, len(tags)) + entries + bytes(struct.calcsize(pointer)) + values_outside


def png(values, colour_type, bits=8):
    """A PNG of 0 grey, 2 RGB, 4 grey and alpha, or 6 RGBA, unfiltered."""
    kind = ">u2" if bits == 16 else "u1"
    rows = values.astype(kind).tobytes() if bits >= 8 else packed(values, bits)
    rows = np.frombuffer(rows, np.uint8).reshape(values.shape[0], -1)
    data = np.pad(rows, ((0, 0), (1, 0))).tobytes()
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def bmp(rows, size, bits, compression=0, palette=b"", masks=()):
    """A BMP of rows as they are in the file. A negative height means that the first row is the top one."""
    extra = struct.pack(f"<{len(masks)}I", *masks)
    data = rows if compression in (1, 2) else b"".join(row.tobytes() + b"\0" * (-row.nbytes % 4) for row in rows)
    offset = 54 + len(extra) + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, *size, 1, bits, compression, len(data), 0, 0, len(palette) // 4, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + header + extra + palette + data


def pnm(kind, values, max_value):
    """A PGM (`P5`) or PPM (`P6`), with a comment as cameras write it."""
    header = f"{kind}\n# camera\n{values.shape[1]} {values.shape[0]}\n{max_value}\n".encode()
    return header + values.astype(">u2" if max_value > 255 else "u1").tobytes()


def multi_picture_jpeg(image, second):
    """A JPEG with a multi-picture block (MPO), as phones and cameras with a preview write it."""
    return pillow(image, "MPO", save_all=True, append_images=[second], quality=95)


def one_bit(grey):
    return Image.fromarray(grey > 127)
