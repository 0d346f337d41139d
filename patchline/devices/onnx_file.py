"""Finds out whether an ONNX file keeps weights in other files, without the package onnx.

The layout is that of onnx.proto: messages of tagged fields, as protocol buffers encode them.
"""

from __future__ import annotations

from collections.abc import Iterator

# The fields of each message that lead to tensors, by their numbers.
_FIELDS = {
    "model": {7: "graph", 25: "function"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA = 13  # of a tensor: pairs of key and value, of which `location` is a file name
_KEY, _VALUE = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def external_files(model: bytes) -> set[str]:
    """Return the names of the files that the tensors of an ONNX model are in, apart from the model itself.

    Args:
        model: the content of the file. What is no protocol buffer has none: the runtime says what is wrong with it.
    """
    try:
        return set(_locations(memoryview(model), "model"))
    except (IndexError, ValueError):
        return set()


def _locations(message: memoryview, kind: str) -> Iterator[str]:
    for number, value in _read_fields(message):
        if kind != "tensor":
            inner = _FIELDS[kind].get(number)
            if inner is not None:
                yield from _locations(value, inner)
        elif number == _EXTERNAL_DATA:
            entry = dict(_read_fields(value))
            if bytes(entry.get(_KEY, b"")) == b"location":
                yield bytes(entry.get(_VALUE, b"")).decode("utf-8", "replace")


def _read_fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The numbers and contents of the fields of bytes; the others are skipped. Raises IndexError or ValueError."""
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
            _, position = _read_varint(message, position)
        elif wire_type in (_FIXED64, _FIXED32):
            position += 8 if wire_type == _FIXED64 else 4
        else:
            raise ValueError(f"unknown type {wire_type} of a field")


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """The number at a position, of seven bits a byte with the lowest first, and the position after it."""
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
