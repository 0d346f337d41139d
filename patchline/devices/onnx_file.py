"""Finds out whether an ONNX file keeps weights in other files, without the package onnx.

The layout is that of onnx.proto: messages of tagged fields, as protocol buffers encode them.
"""

from __future__ import annotations

from collections.abc import Iterator

from patchline.devices import protobuf

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
    for number, value in protobuf.read_fields(message):
        if isinstance(value, int):
            continue
        if kind != "tensor":
            inner = _FIELDS[kind].get(number)
            if inner is not None:
                yield from _locations(value, inner)
        elif number == _EXTERNAL_DATA:
            entry = {number: text for number, text in protobuf.read_fields(value) if not isinstance(text, int)}
            if bytes(entry.get(_KEY, b"")) == b"location":
                yield bytes(entry.get(_VALUE, b"")).decode("utf-8", "replace")
