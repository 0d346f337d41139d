"""Derive a static model for atc from a backbone's ONNX file: opset 11, one image of one size, no computed shapes.

OpenVINO infers the shapes. A Reshape then gets the shape of its result as a constant and a Resize its scales, so what
computed them is used by nobody and goes. The other operators mean in opset 11 what they mean in the backbone's opset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from patchline.devices import openvino_backbone
from patchline.devices.model_manifest import ModelManifest
from patchline.models import onnx_graph
from patchline.models.onnx_graph import Graph, Node, Value
from patchline.protocol.errors import SetupError

OPSET = 11
_IR_VERSION = 6  # of ONNX 1.6, the first with opset 11
_SOURCE_OPSETS = range(OPSET, 19)
# Operators whose later versions up to opset 18 only add types, or attributes that a rule below removes.
_SAME = {
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Clip",
    "Concat",
    "Conv",
    "Div",
    "Flatten",
    "Gemm",
    "GlobalAveragePool",
    "Identity",
    "MatMul",
    "MaxPool",
    "Mul",
    "Relu",
    "Reshape",
    "Resize",
    "Sigmoid",
    "Sub",
    "Transpose",
}
_LATER_ATTRIBUTES = {
    "BatchNormalization": {"training_mode"},
    "Reshape": {"allowzero"},
    "Resize": {"antialias", "keep_aspect_ratio_policy"},
}

Shapes = Mapping[str, tuple[int, ...]]
_Constants = dict[str, bytes | memoryview]


def derive(path: Path, manifest: ModelManifest, side: int) -> Graph:
    """Derive the static model for images of one size.

    Args:
        path: the ONNX file of the backbone.
        manifest: of the backbone.
        side: of the image in pixels.

    Raises:
        SetupError: the file is no ONNX file of a supported opset, or an operator has no equal in opset 11.
    """
    try:
        graph = onnx_graph.decode(path.read_bytes())
    except ValueError as error:
        raise SetupError(f"{path}: {error}; only an ONNX file can be compiled for the Ascend") from error
    if graph.opset not in _SOURCE_OPSETS:
        raise SetupError(f"{path}: has opset {graph.opset}; export it with opset {OPSET} to {_SOURCE_OPSETS[-1]}")
    try:
        return _with_shapes(graph, openvino_backbone.value_shapes(path, manifest, side))
    except (ValueError, RuntimeError) as error:
        raise SetupError(f"{path}: has no static form for {side} x {side} images: {error}") from error


def _with_shapes(graph: Graph, shapes: Shapes) -> Graph:
    constants = dict(graph.constants)
    used = {value.name for value in graph.outputs}
    nodes: list[Node] = []
    for number, node in reversed(list(enumerate(graph.nodes))):
        if used.isdisjoint(node.outputs):
            continue
        name = f"{node.op}_{number}"  # unique, because atc names the parts of an operator after it
        nodes.append(replace(_convert(node, shapes, constants), name=name))
        used.update(nodes[-1].inputs)
    return Graph(
        ir_version=_IR_VERSION,
        opset=OPSET,
        nodes=tuple(reversed(nodes)),
        constants={name: constant for name, constant in constants.items() if name in used},
        inputs=tuple(_fixed(value, shapes) for value in graph.inputs),
        outputs=tuple(_fixed(value, shapes) for value in graph.outputs),
    )


def _fixed(value: Value, shapes: Shapes) -> Value:
    return replace(value, shape=_shape(value.name, shapes))


def _shape(name: str, shapes: Shapes) -> tuple[int, ...]:
    if name not in shapes:
        raise ValueError(f"the shape of {name} is not known")
    return shapes[name]


def _convert(node: Node, shapes: Shapes, constants: _Constants) -> Node:
    """The same operation in opset 11, with constants for what is computed from shapes."""
    if node.domain or node.op not in _SAME:
        raise ValueError(
            f"operator {node.op} ({node.outputs[0]}) has no rule; backbones use {', '.join(sorted(_SAME))}"
        )
    removed = _LATER_ATTRIBUTES.get(node.op, set())
    attributes = {key: value for key, value in node.attributes.items() if key not in removed}
    node = replace(node, attributes=attributes)
    rule = _RULES.get(node.op)
    return node if rule is None else rule(node, shapes, constants)


def _reshape(node: Node, shapes: Shapes, constants: _Constants) -> Node:
    (output,) = node.outputs
    shape = f"{output}_shape"
    constants[shape] = onnx_graph.tensor(shape, np.array(_shape(output, shapes), np.int64))
    return replace(node, inputs=(node.inputs[0], shape))


def _resize(node: Node, shapes: Shapes, constants: _Constants) -> Node:
    """Opset 11 requires `roi`, which is empty: only crops use it."""
    (output,) = node.outputs
    if "axes" in node.attributes:
        raise ValueError(f"operator Resize ({output}) has axes, which opset {OPSET} does not know")
    before, after = (np.array(_shape(name, shapes), np.float32) for name in (node.inputs[0], output))
    roi, scales = f"{output}_roi", f"{output}_scales"
    constants[roi] = onnx_graph.tensor(roi, np.zeros(0, np.float32))
    constants[scales] = onnx_graph.tensor(scales, after / before)
    return replace(node, inputs=(node.inputs[0], roi, scales))


_RULES: dict[str, Callable[[Node, Shapes, _Constants], Node]] = {"Reshape": _reshape, "Resize": _resize}
