"""The four models of the reference as torch exports them (opset 18, any batch, computed shapes), but narrow: random
weights, one block per layer and few channels between, so that they take no torch and no time."""

import numpy as np

from patchline.devices import model_manifest, protobuf
from patchline.devices.model_manifest import ModelManifest
from patchline.models import convert, onnx_graph, probes
from patchline.models.onnx_graph import Graph, Node, Value

_CHANNELS = 8
_DIMS = {"layer2": 512, "layer3": 1024}


class _Builder:
    def __init__(self):
        self.nodes, self.constants = [], {}
        self._rng = np.random.default_rng(0)

    def add(self, op, inputs, **attributes):
        output = f"{op.lower()}_{len(self.nodes)}"
        encoded = {key: _integers(key, values) for key, values in attributes.items()}
        self.nodes.append(Node(op, "", tuple(inputs), (output,), encoded))
        return output

    def constant(self, array):
        name = f"constant_{len(self.constants)}"
        self.constants[name] = onnx_graph.tensor(name, array)
        return name

    def convolve(self, x, inputs, outputs, size, stride):
        weights = self._rng.standard_normal((outputs, inputs, size, size)) * np.sqrt(2 / (inputs * size * size))
        names = (self.constant(weights.astype(np.float32)), self.constant(np.full(outputs, 0.1, np.float32)))
        shape = {"kernel_shape": [size] * 2, "strides": [stride] * 2, "pads": [size // 2] * 4}
        return self.add("Conv", (x, *names), **shape)

    def bottleneck(self, x, inputs, outputs, stride):
        y = self.add("Relu", [self.convolve(x, inputs, _CHANNELS, 1, 1)])
        y = self.add("Relu", [self.convolve(y, _CHANNELS, _CHANNELS, 3, stride)])
        y = self.convolve(y, _CHANNELS, outputs, 1, 1)
        return self.add("Relu", [self.add("Add", (y, self.convolve(x, inputs, outputs, 1, stride)))])


def graph(side, layer, pools=True):
    """A graph as torch exports it."""
    builder = _Builder()
    x = builder.add("Relu", [builder.convolve("images", 3, _CHANNELS, 7, 2)])
    x = builder.add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    outputs = [_CHANNELS, _DIMS[layer]] if layer == "layer2" else [_CHANNELS, _CHANNELS, _DIMS[layer]]
    for number, channels in enumerate(outputs):
        x = builder.bottleneck(x, _CHANNELS, channels, 1 if number == 0 else 2)
    if pools:
        include = {"count_include_pad": _integer("count_include_pad", 1)}
        builder.nodes.append(Node("AveragePool", "", (x,), ("pooled",), _pooling() | include))
        x = "pooled"
    batch = builder.add("Shape", ["images"])
    batch = builder.add("Gather", [batch, builder.constant(np.zeros(1, np.int64))])
    rest = builder.constant(np.array([_DIMS[layer], -1], np.int64))
    concat = Node("Concat", "", (batch, rest), ("shape",), {"axis": _integer("axis", 0)})
    allowzero = {"allowzero": _integer("allowzero", 1)}
    flat = Node("Reshape", "", (x, "shape"), ("flat",), allowzero)
    transpose = Node("Transpose", "", ("flat",), ("patches",), {"perm": _integers("perm", [0, 2, 1])})
    nodes = (*builder.nodes, concat, flat, transpose)
    images = Value("images", onnx_graph.FLOAT, (None, 3, side, side))
    return Graph(10, 18, nodes, builder.constants, (images,), (Value("patches", onnx_graph.FLOAT, (None,) * 3),))


def nchw(model):
    """The same graph with its features as the reference has them, [1, dim, rows, columns]: without the last steps."""
    nodes = [node for node in model.nodes if node.outputs[0] not in ("flat", "patches", "shape")]
    output = Value("pooled", onnx_graph.FLOAT, (None,) * 4)
    return Graph(model.ir_version, model.opset, tuple(nodes), model.constants, model.inputs, (output,))


def write(folder, side, layer, pools=True):
    """Write a model and its manifest into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"wideresnet101_{side}_{layer}"
    path = folder / f"{name}.onnx"
    path.write_bytes(onnx_graph.encode(graph(side, layer, pools)))
    manifest = ModelManifest(
        name=name,
        file=path.name,
        sha256=model_manifest.digest(path),
        layer=layer,
        stride=8 if layer == "layer2" else 16,
        dim=_DIMS[layer],
        side=side,
        side_multiple_of=8,
        input="float32_nchw",
        mean=convert.IMAGENET_MEAN,
        std=convert.IMAGENET_STD,
        pools=True,
        precision="f32",
        weights="random",
        weights_sha256="0" * 64,
        licence="none",
        made_by="a test",
    )
    manifest = probes.with_probes(path, manifest, [side])
    model_manifest.write(folder, manifest)
    return manifest


def _integer(name, value):
    """Encode an attribute of one integer."""
    return protobuf.write_fields([(1, name.encode()), (3, value), (20, 2)])


def _integers(name, values):
    """Encode an attribute of several integers."""
    return protobuf.write_fields([(1, name.encode()), *((8, value) for value in values), (20, 7)])


def _pooling():
    shape = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1] * 4}
    return {key: _integers(key, values) for key, values in shape.items()}
