"""An ONNX file whose weights are in other files is refused, because its digest does not cover them."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from patchline.devices import backbone, loading, model_manifest, onnx_file, protobuf
from patchline.protocol.errors import SetupError

NAME = "efficientnet_lite0"
GRAPH, INITIALIZER, RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 7, 5, 9, 13, 14


def varint(value):
    head = bytes([value & 0x7F | (0x80 if value > 0x7F else 0)])
    return head + varint(value >> 7) if value > 0x7F else head


def field(number, content):
    """A field of bytes."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def entry(key, value):
    return field(1, key) + field(2, value)


def split(message):
    """The fields of a message, each with its number, its whole encoding, and its content if it has bytes."""
    position, fields = 0, []
    view = memoryview(message)
    while position < len(message):
        start = position
        tag, position = protobuf._read_varint(view, position)
        value, after = protobuf._read_varint(view, position)
        content = message[after : after + value] if tag & 7 == 2 else None
        position = after + (value if tag & 7 == 2 else 0)
        assert tag & 7 in (0, 2)
        fields.append((tag >> 3, message[start:position], content))
    return fields


def rebuild(message, number, change):
    """The message with a change of the contents of all fields of a number."""
    return b"".join(field(number, change(content)) if n == number else raw for n, raw, content in split(message))


def with_external_weights(folder):
    """Write the default backbone as torch writes large models: with its largest weights in a file beside it."""
    shutil.copy(Path("models") / f"{NAME}.json", folder)
    model = (Path("models") / f"{NAME}.onnx").read_bytes()
    weights = bytearray()

    def move(tensor):
        raw = next((content for number, _, content in split(tensor) if number == RAW_DATA), b"")
        if len(raw) < 100_000:
            return tensor
        place = [(b"location", b"weights.data"), (b"offset", b"%d" % len(weights)), (b"length", b"%d" % len(raw))]
        weights.extend(raw)
        kept = b"".join(encoding for number, encoding, _ in split(tensor) if number != RAW_DATA)
        entries = b"".join(field(EXTERNAL_DATA, entry(*pair)) for pair in place)
        return kept + entries + varint(DATA_LOCATION << 3) + varint(1)

    path = folder / f"{NAME}.onnx"
    path.write_bytes(rebuild(model, GRAPH, lambda graph: rebuild(graph, INITIALIZER, move)))
    (folder / "weights.data").write_bytes(weights)
    manifest = model_manifest.read(folder, NAME).model_copy(update={"sha256": model_manifest.digest(path)})
    model_manifest.write(folder, manifest)
    return path, manifest


def test_a_model_with_weights_in_another_file_is_refused_with_what_to_do(tmp_path):
    """D15: the runtime reads the other file, so features change under the same digest."""
    path, manifest = with_external_weights(tmp_path)
    image = np.random.default_rng(0).integers(0, 255, (1, 64, 64, 3), np.uint8)

    def features():
        return loading.compile_model(path, manifest, 64, backbone.CPU, 1, "f32").extract(image)

    before = features()
    weights = np.fromfile(tmp_path / "weights.data", np.float32)
    (weights * 1.1).astype(np.float32).tofile(tmp_path / "weights.data")
    assert not np.allclose(features(), before)
    assert model_manifest.digest(path) == manifest.sha256
    with pytest.raises(SetupError, match=r"keeps weights in weights\.data.*onnx\.save\(onnx\.load\("):
        loading.load(tmp_path, NAME, 64, backbone.CPU, streams=1)


def test_the_packaged_model_has_its_weights_inside():
    assert onnx_file.external_files((Path("models") / f"{NAME}.onnx").read_bytes()) == set()


TENSOR = field(EXTERNAL_DATA, entry(b"location", b"a.data"))
PLACES = {
    "initializer": field(7, field(5, TENSOR)),
    "sparse initializer": field(7, field(15, field(1, TENSOR))),
    "constant of a node": field(7, field(1, field(5, field(5, TENSOR)))),
    "node of a subgraph": field(7, field(1, field(5, field(6, field(5, TENSOR))))),
    "node of a function": field(25, field(7, field(5, field(5, TENSOR)))),
}


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_found_wherever_a_tensor_can_be(place):
    assert onnx_file.external_files(varint(1 << 3) + varint(9) + PLACES[place]) == {"a.data"}


@pytest.mark.parametrize("content", [b"", b"\xff" * 20, b"<xml/>", PLACES["initializer"][:-3], bytes(100)])
def test_what_is_no_model_has_no_external_data(content):
    assert onnx_file.external_files(content) == set()
