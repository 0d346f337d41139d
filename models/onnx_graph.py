"""Read and write ONNX files as graphs, without the package onnx. The numbers of fields are those of onnx.proto."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from patchline.devices import protobuf
from patchline.devices.protobuf import Content

FLOAT, INT64 = 1, 7  # TensorProto.DataType
_IR_VERSION, _PRODUCER, _GRAPH, _OPSET_IMPORT = 1, 2, 7, 8  # of a model
_NODE, _GRAPH_NAME, _INITIALIZER, _INPUT, _OUTPUT = 1, 2, 5, 11, 12  # of a graph
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _OP_TYPE, _ATTRIBUTE, _NODE_DOMAIN = 1, 2, 3, 4, 5, 7
_DIMS, _DATA_TYPE, _TENSOR_NAME, _RAW_DATA = 1, 2, 8, 9  # of a tensor
_PRODUCER_NAME = b"patchline"

_Fields = Mapping[int, Sequence[int | memoryview]]


@dataclass(frozen=True)
class Node:
    """One operation. `attributes` are encoded AttributeProto by name; an input that is left out is an empty name."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, bytes] = field(default_factory=dict)
    domain: str = ""


@dataclass(frozen=True)
class Value:
    """An input or output of a graph. `shape` has None for a dimension without a number."""

    name: str
    element_type: int
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Graph:
    """An ONNX model.

    Attributes:
        opset: the version of the operators of ONNX itself.
        nodes: in the order of the computation.
        constants: encoded TensorProto by name.
    """

    ir_version: int
    opset: int
    nodes: tuple[Node, ...]
    constants: Mapping[str, bytes | memoryview]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def decode(content: bytes) -> Graph:
    """Decode an ONNX file. Metadata, types of intermediate values and functions are left out.

    Raises:
        ValueError: it is no ONNX file.
    """
    try:
        return _decode(memoryview(content))
    except (IndexError, KeyError, TypeError) as error:
        raise ValueError("is no ONNX file") from error


def encode(graph: Graph) -> bytes:
    """Encode an ONNX file."""
    body: list[tuple[int, Content]] = [(_NODE, _encode_node(node)) for node in graph.nodes]
    body.append((_GRAPH_NAME, _PRODUCER_NAME))
    body += [(_INITIALIZER, tensor) for tensor in graph.constants.values()]
    body += [(_INPUT, _encode_value(value)) for value in graph.inputs]
    body += [(_OUTPUT, _encode_value(value)) for value in graph.outputs]
    fields: list[tuple[int, Content]] = [
        (_IR_VERSION, graph.ir_version),
        (_PRODUCER, _PRODUCER_NAME),
        (_GRAPH, protobuf.write_fields(body)),
        (_OPSET_IMPORT, protobuf.write_fields([(2, graph.opset)])),
    ]
    return protobuf.write_fields(fields)


def tensor(name: str, array: NDArray[np.int64] | NDArray[np.float32]) -> bytes:
    """Encode a constant, int64 or float32 [any shape]."""
    data_type = INT64 if array.dtype == np.int64 else FLOAT
    content = array.astype(array.dtype.newbyteorder("<")).tobytes()
    dims: list[tuple[int, Content]] = [(_DIMS, size) for size in array.shape]
    return protobuf.write_fields([*dims, (_DATA_TYPE, data_type), (_TENSOR_NAME, name.encode()), (_RAW_DATA, content)])


def _decode(content: memoryview) -> Graph:
    model = _fields(content)
    graph = _fields(_bytes(model, _GRAPH))
    opsets = {_text(fields, 1): _integer(fields, 2) for fields in map(_fields, _messages(model, _OPSET_IMPORT))}
    constants: dict[str, bytes | memoryview] = {
        _text(_fields(each), _TENSOR_NAME): each for each in _messages(graph, _INITIALIZER)
    }
    nodes = tuple(_decode_node(_fields(each)) for each in _messages(graph, _NODE))
    for node in nodes:
        if node.op == "Constant" and "value" in node.attributes:
            (value,) = _messages(_fields(memoryview(node.attributes["value"])), 5)
            constants[node.outputs[0]] = _renamed(value, node.outputs[0])
    return Graph(
        ir_version=_integer(model, _IR_VERSION),
        opset=opsets[""],
        nodes=tuple(node for node in nodes if not (node.op == "Constant" and "value" in node.attributes)),
        constants=constants,
        inputs=tuple(value for value in map(_decode_value, _messages(graph, _INPUT)) if value.name not in constants),
        outputs=tuple(map(_decode_value, _messages(graph, _OUTPUT))),
    )


def _decode_node(fields: _Fields) -> Node:
    attributes = {_text(_fields(each), 1): bytes(each) for each in _messages(fields, _ATTRIBUTE)}
    inputs, outputs = (tuple(_texts(fields, number)) for number in (_NODE_INPUT, _NODE_OUTPUT))
    domain = _text(fields, _NODE_DOMAIN)
    return Node(_text(fields, _OP_TYPE), _text(fields, _NODE_NAME), inputs, outputs, attributes, domain)


def _encode_node(node: Node) -> bytes:
    fields: list[tuple[int, Content]] = [
        *((_NODE_INPUT, name.encode()) for name in node.inputs),
        *((_NODE_OUTPUT, name.encode()) for name in node.outputs),
        (_NODE_NAME, node.name.encode()),
        (_OP_TYPE, node.op.encode()),
        *((_ATTRIBUTE, attribute) for attribute in node.attributes.values()),
    ]
    return protobuf.write_fields(fields + ([(_NODE_DOMAIN, node.domain.encode())] if node.domain else []))


def _decode_value(message: memoryview) -> Value:
    fields = _fields(message)
    tensor_type = _fields(_bytes(_fields(_bytes(fields, 2)), 1))
    dimensions = [_fields(each) for each in _messages(_fields(_bytes(tensor_type, 2)), 1)]
    shape = tuple(_integer(dimension, 1) if 1 in dimension else None for dimension in dimensions)
    return Value(_text(fields, 1), _integer(tensor_type, 1), shape)


def _encode_value(value: Value) -> bytes:
    dimensions = [protobuf.write_fields([] if size is None else [(1, size)]) for size in value.shape]
    shape = protobuf.write_fields((1, dimension) for dimension in dimensions)
    tensor_type = protobuf.write_fields([(1, value.element_type), (2, shape)])
    return protobuf.write_fields([(1, value.name.encode()), (2, protobuf.write_fields([(1, tensor_type)]))])


def _renamed(constant: memoryview, name: str) -> bytes:
    """A constant under another name. Its numbers must be raw data, as torch writes them."""
    fields = [field for field in protobuf.read_fields(constant) if field[0] != _TENSOR_NAME]
    return protobuf.write_fields([*fields, (_TENSOR_NAME, name.encode())])


def _fields(message: memoryview) -> _Fields:
    fields: dict[int, list[int | memoryview]] = {}
    for number, content in protobuf.read_fields(message):
        fields.setdefault(number, []).append(content)
    return fields


def _messages(fields: _Fields, number: int) -> Iterator[memoryview]:
    for content in fields.get(number, ()):
        if isinstance(content, int):
            raise ValueError(f"field {number} is a number, not a message")
        yield content


def _bytes(fields: _Fields, number: int) -> memoryview:
    """The one message of a number; an empty one if it is left out."""
    return next(_messages(fields, number), memoryview(b""))


def _texts(fields: _Fields, number: int) -> Iterator[str]:
    return (bytes(content).decode() for content in _messages(fields, number))


def _text(fields: _Fields, number: int) -> str:
    return bytes(_bytes(fields, number)).decode()


def _integer(fields: _Fields, number: int) -> int:
    (content,) = fields.get(number, [0])
    if not isinstance(content, int):
        raise ValueError(f"field {number} is no number")
    return content
