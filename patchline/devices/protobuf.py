"""The wire format of protocol buffers, as far as ONNX files use it. The fields have numbers, and no names.

Source: "Encoding" in the documentation of protocol buffers (protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Content = int | bytes | memoryview  # of a field: a varint, or bytes (a string, a message, packed numbers)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}


def read_fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The numbers and contents of the fields of a message. Numbers of fixed size are skipped.

    Raises:
        IndexError: the message ends within a field.
        ValueError: it is no message.
    """
    position = 0
    while position < len(message):
        tag, position = _read_varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _BYTES:
            length, position = _read_varint(message, position)
            if length > len(message) - position:
                raise ValueError("a field ends after its message")
            yield number, message[position : position + length]
            position += length
        elif wire_type == _VARINT:
            value, position = _read_varint(message, position)
            yield number, value
        elif wire_type in _FIXED_BYTES:
            position += _FIXED_BYTES[wire_type]
        else:
            raise ValueError(f"unknown type {wire_type} of a field")


def write_fields(fields: Iterable[tuple[int, Content]]) -> bytes:
    """A message of varints and bytes."""
    return b"".join(part for number, content in fields for part in _write_field(number, content))


def _write_field(number: int, content: Content) -> Iterator[bytes | memoryview]:
    if isinstance(content, int):
        yield _varint(number << 3 | _VARINT) + _varint(content)
    else:
        yield _varint(number << 3 | _BYTES) + _varint(len(content))
        yield content


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """The number at a position, of seven bits a byte with the lowest first, and the position after it."""
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
